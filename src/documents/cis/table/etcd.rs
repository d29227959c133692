//! Section 2: etcd.

use crate::documents::cis::benchmark::Benchmark as B;
use crate::documents::cis::control::{Component as C, Control, Remedy, Test, Want as W, flag, if_set, manual, scored};
use crate::documents::cis::control_plane;

pub(super) const CONTROLS: &[Control] = &[
    Control {
        places: &[scored(B::V1_20, B::V2_0, "2.1")],
        level: 1,
        title: "etcd serves with a certificate",
        test: Test::Flags(C::Etcd, &[flag("cert-file", W::Present), flag("key-file", W::Present)]),
        remedy: Remedy::Do("kubeadm sets it: `kprov reset` brings it back"),
    },
    Control {
        places: &[scored(B::V1_20, B::V2_0, "2.2")],
        level: 1,
        title: "etcd's clients have to show certificates",
        test: Test::Flags(C::Etcd, &[flag("client-cert-auth", W::Is("true"))]),
        remedy: Remedy::Do("kubeadm sets it: `kprov reset` brings it back"),
    },
    Control {
        places: &[scored(B::V1_20, B::V2_0, "2.3")],
        level: 1,
        title: "etcd does not sign its own certificate",
        test: Test::Flags(C::Etcd, &[if_set("auto-tls", W::Is("false"))]),
        remedy: Remedy::Do("take the flag out of `etcd.extraArgs`"),
    },
    Control {
        places: &[scored(B::V1_20, B::V2_0, "2.4")],
        level: 1,
        title: "etcd's members show each other certificates",
        test: Test::Flags(C::Etcd, &[flag("peer-cert-file", W::Present), flag("peer-key-file", W::Present)]),
        remedy: Remedy::Do("kubeadm sets it: `kprov reset` brings it back"),
    },
    Control {
        places: &[scored(B::V1_20, B::V2_0, "2.5")],
        level: 1,
        title: "etcd's members have to show certificates",
        test: Test::Flags(C::Etcd, &[flag("peer-client-cert-auth", W::Is("true"))]),
        remedy: Remedy::Do("kubeadm sets it: `kprov reset` brings it back"),
    },
    Control {
        places: &[scored(B::V1_20, B::V2_0, "2.6")],
        level: 1,
        title: "etcd's members do not sign their own certificates",
        test: Test::Flags(C::Etcd, &[if_set("peer-auto-tls", W::Is("false"))]),
        remedy: Remedy::Do("take the flag out of `etcd.extraArgs`"),
    },
    Control {
        places: &[manual(B::V1_20, B::V2_0, "2.7")],
        level: 2,
        title: "etcd trusts a CA of its own",
        test: Test::ControlPlane(control_plane::own_authority),
        remedy: Remedy::Do("kubeadm sets it: `kprov reset` brings it back"),
    },
];
