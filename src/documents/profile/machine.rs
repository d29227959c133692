//! What nodes have of the host, and whom they trust and ask on their way out: limits, certificates, proxies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The least memory of a node, in bytes: containerd and a kubelet alone take about as much.
const LEAST: u64 = 256 << 20;

/// How much of the host a node may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// How many processors' time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cpus: Option<u32>,
    /// How much memory, such as `4Gi` or `1500Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

impl Limits {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The memory in bytes; `None` if there is no limit.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        self.memory.as_deref().and_then(bytes)
    }

    /// What is wrong with it: the field, and why.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        if self.cpus == Some(0) {
            return Some(("cpus", "a node without processors does not run".to_owned()));
        }
        let memory = self.memory.as_deref()?;
        match bytes(memory) {
            None => Some(("memory", format!("`{memory}` is no amount of memory, such as 4Gi or 1500Mi"))),
            Some(bytes) if bytes < LEAST => {
                Some(("memory", format!("a node does not run in {memory}; 256Mi is the least")))
            }
            Some(_) => None,
        }
    }
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => return None,
    };
    // What Docker counts bytes with.
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| i64::try_from(*bytes).is_ok())
}

/// The proxies that nodes, and what runs on them, use on their way out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Proxy {
    /// For `http://`, such as `http://proxy.example.org:3128`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// For `https://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<String>,
    /// Hosts, domains and subnets that are reached without; those of the cluster are so anyway.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_proxy: Vec<String>,
}

impl Proxy {
    /// The value of one of the variables that processes know proxies by.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<String> {
        match name {
            "HTTP_PROXY" => self.http.clone(),
            "HTTPS_PROXY" => self.https.clone(),
            "NO_PROXY" => Some(self.no_proxy.join(",")).filter(|list| !list.is_empty()),
            _ => None,
        }
    }

    /// What is wrong with it: the field, and why. What may hold a password is not quoted.
    pub(super) fn fault(&self) -> Option<(&'static str, &'static str)> {
        for (field, url) in [("http", &self.http), ("https", &self.https)] {
            let Some(url) = url else { continue };
            if url.contains('@') {
                return Some((field, "credentials in a proxy's address would be seen in every node's environment"));
            }
            let rest = ["http://", "https://", "socks5://"].iter().find_map(|scheme| url.strip_prefix(scheme));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]/".contains(&byte);
            if rest.is_none_or(|rest| rest.is_empty() || !rest.bytes().all(plain)) {
                return Some((field, "this is no address of a proxy, such as http://proxy.example.org:3128"));
            }
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]/*".contains(&byte);
        let sound = |entry: &String| !entry.is_empty() && entry.bytes().all(plain);
        (!self.no_proxy.iter().all(sound)).then_some(("noProxy", "an entry is neither a host, a domain nor a subnet"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(cpus: Option<u32>, memory: &str) -> Limits {
        Limits { cpus, memory: Some(memory.to_owned()) }
    }

    #[test]
    fn memory_is_binary_and_enough() {
        assert_eq!(limits(None, "4Gi").memory_bytes(), Some(4 << 30));
        assert_eq!(limits(None, "1500Mi").memory_bytes(), Some(1500 << 20));
        for bad in ["", "4", "4G", "4 Gi", "-4Gi", "Gi", "255Mi", "99999999999Gi", "4gi"] {
            assert!(limits(None, bad).fault().is_some(), "{bad}");
        }
        assert_eq!(limits(Some(0), "4Gi").fault().unwrap().0, "cpus");
        assert_eq!(limits(Some(2), "4Gi").fault(), None);
    }

    #[test]
    fn proxies_are_addresses_and_never_quoted_with_a_password() {
        let with = |http: &str| Proxy { http: Some(http.to_owned()), ..Proxy::default() };
        assert_eq!(with("http://p:3128").fault(), None);
        for bad in ["", "p:3128", "http://", "http://me:hunter2@p", "http://p\" \"X=1", "http://p\nX=1"] {
            let (_, why) = with(bad).fault().unwrap();
            assert!(!why.contains("hunter2"), "{bad}");
        }
        let list = Proxy { no_proxy: vec!["a b".to_owned()], ..Proxy::default() };
        assert!(list.fault().is_some());
    }
}
