//! Section 3: who gets in, and what is written of it.

use crate::documents::cis::benchmark::Benchmark as B;
use crate::documents::cis::control::{Component as C, Control, Remedy, Test, Want as W, flag, manual};
use crate::documents::cis::control_plane;

pub(super) const CONTROLS: &[Control] = &[
    Control {
        places: &[manual(B::V1_20, B::V2_0, "3.1.1")],
        level: 1,
        title: "People do not authenticate by client certificates",
        test: Test::Cluster(control_plane::client_certificates),
        remedy: Remedy::Do("give people an identity provider (OIDC) instead of certificates, which nothing can revoke"),
    },
    Control {
        places: &[manual(B::V1_7, B::V2_0, "3.1.2")],
        level: 1,
        title: "People do not authenticate by service accounts' tokens",
        test: Test::Cluster(control_plane::account_tokens),
        remedy: Remedy::Do("give people an identity provider (OIDC) instead of tokens"),
    },
    Control {
        places: &[manual(B::V1_7, B::V2_0, "3.1.3")],
        level: 1,
        title: "People do not authenticate by bootstrap tokens",
        test: Test::Cluster(control_plane::bootstrap_tokens),
        remedy: Remedy::Do("`kubectl -n kube-system delete secret` them: nodes that have joined need none"),
    },
    Control {
        places: &[manual(B::V1_20, B::V2_0, "3.2.1")],
        level: 1,
        title: "There is an audit policy",
        test: Test::Flags(C::ApiServer, &[flag("audit-policy-file", W::Present)]),
        remedy: Remedy::Set(&["audit.rules=[{level: Metadata}]"]),
    },
    Control {
        places: &[manual(B::V1_20, B::V1_12, "3.2.2")],
        level: 2,
        title: "The audit policy covers what matters",
        test: Test::ControlPlane(control_plane::audit_coverage),
        remedy: Remedy::Set(&["audit.rules=[{level: Metadata}]"]),
    },
    Control {
        places: &[manual(B::V2_0, B::V2_0, "3.2.2")],
        level: 2,
        title: "The audit policy covers what matters",
        test: Test::ControlPlane(control_plane::audit_coverage_of_credentials_too),
        remedy: Remedy::Set(&["audit.rules=[{level: Metadata}]"]),
    },
];
