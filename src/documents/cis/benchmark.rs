//! The versions of the CIS Kubernetes Benchmark, and which of them is meant for a version of Kubernetes.

use std::fmt;
use std::str::FromStr;

/// A version of the benchmark. Versions are ordered by their age, not by their numbers: 1.24 was followed by 1.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Benchmark(u8);

/// The name of each version, the oldest first, and the first minor version of Kubernetes that it is for.
const VERSIONS: [(&str, u64); 10] = [
    ("cis-1.20", 19),
    ("cis-1.23", 22),
    ("cis-1.24", 24),
    ("cis-1.7", 25),
    ("cis-1.8", 26),
    ("cis-1.9", 27),
    ("cis-1.10", 28),
    ("cis-1.11", 29),
    ("cis-1.12", 32),
    ("cis-2.0", 34),
];

impl Benchmark {
    /// 1.20
    pub const V1_20: Self = Self(0);
    /// 1.23
    pub const V1_23: Self = Self(1);
    /// 1.24
    pub const V1_24: Self = Self(2);
    /// 1.7
    pub const V1_7: Self = Self(3);
    /// 1.8
    pub const V1_8: Self = Self(4);
    /// 1.9
    pub const V1_9: Self = Self(5);
    /// 1.10
    pub const V1_10: Self = Self(6);
    /// 1.11
    pub const V1_11: Self = Self(7);
    /// 1.12
    pub const V1_12: Self = Self(8);
    /// 2.0
    pub const V2_0: Self = Self(9);
    /// The newest one.
    pub const NEWEST: Self = Self::V2_0;

    /// Every version, the oldest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=Self::NEWEST.0).map(Self)
    }

    /// The version that is meant for Kubernetes 1.`minor`, as kube-bench maps them (aquasecurity/kube-bench,
    /// cfg/config.yaml, `version_mapping`): what is newer than all gets the newest, what is older than all the oldest.
    #[must_use]
    pub fn for_kubernetes(minor: u64) -> Self {
        Self::all().take_while(|version| VERSIONS[usize::from(version.0)].1 <= minor).last().unwrap_or(Self::V1_20)
    }

    /// The version before it.
    #[must_use]
    pub fn before(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }

    /// The name, as kube-bench has it: `cis-1.12`.
    #[must_use]
    pub fn name(self) -> &'static str {
        VERSIONS[usize::from(self.0)].0
    }
}

impl fmt::Display for Benchmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("there is no benchmark {0:?}")]
#[diagnostic(code(kprov::cis::benchmark), help("known are {}", names()))]
pub struct UnknownBenchmark(String);

/// The names of all versions, as a list for messages.
#[must_use]
pub fn names() -> String {
    VERSIONS.map(|(name, _)| name).join(", ")
}

impl FromStr for Benchmark {
    type Err = UnknownBenchmark;

    fn from_str(text: &str) -> Result<Self, UnknownBenchmark> {
        let found = Self::all().find(|version| version.name() == text || version.name()[4..] == *text);
        found.ok_or_else(|| UnknownBenchmark(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kubernetes_has_its_benchmark() {
        let name = |minor| Benchmark::for_kubernetes(minor).name();
        assert_eq!([18, 19, 20, 21].map(name), ["cis-1.20"; 4]);
        assert_eq!([22, 23].map(name), ["cis-1.23"; 2]);
        assert_eq!([24, 25, 26, 27, 28].map(name), ["cis-1.24", "cis-1.7", "cis-1.8", "cis-1.9", "cis-1.10"]);
        assert_eq!([29, 30, 31].map(name), ["cis-1.11"; 3]);
        assert_eq!([32, 33].map(name), ["cis-1.12"; 2]);
        assert_eq!([34, 35, 36, 99].map(name), ["cis-2.0"; 4]);
    }

    #[test]
    fn names_are_read_with_and_without_cis() {
        assert_eq!("cis-1.7".parse::<Benchmark>().unwrap(), Benchmark::V1_7);
        assert_eq!("1.12".parse::<Benchmark>().unwrap(), Benchmark::V1_12);
        assert!("cis-9".parse::<Benchmark>().unwrap_err().to_string().contains("cis-9"));
        assert_eq!("2.0".parse::<Benchmark>().unwrap(), Benchmark::NEWEST);
        assert!(Benchmark::V1_24 < Benchmark::V1_7 && Benchmark::V1_12 < Benchmark::V2_0);
        assert_eq!((Benchmark::V2_0.before(), Benchmark::V1_20.before()), (Some(Benchmark::V1_12), None));
    }
}
