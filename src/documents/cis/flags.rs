//! Flags on a command line, as the programs of Kubernetes read them.

/// Flags that need no value. Any other one that has none takes the next word for it, whatever that looks like.
const SWITCHES: [&str; 18] = [
    "allocate-node-cidrs",
    "allow-privileged",
    "anonymous-auth",
    "auto-tls",
    "client-cert-auth",
    "contention-profiling",
    "enable-bootstrap-token-auth",
    "fail-swap-on",
    "kubelet-https",
    "leader-elect",
    "make-iptables-util-chains",
    "peer-auto-tls",
    "peer-client-cert-auth",
    "profiling",
    "rotate-certificates",
    "service-account-extend-token-expiration",
    "service-account-lookup",
    "use-service-account-credentials",
];

/// Whether a flag of this name stands where the flag before it may have its value: then it need be none.
pub(super) fn is_doubtful(arguments: &[String], name: &str) -> bool {
    let takes_the_next = |word: &String| {
        word.strip_prefix('-').is_some_and(|text| {
            let flag = text.trim_start_matches('-').replace('_', "-");
            !flag.contains('=') && !SWITCHES.contains(&flag.as_str())
        })
    };
    let is_it = |word: &String| {
        let text = word.trim_start_matches('-');
        word.starts_with('-') && text.split('=').next().is_some_and(|flag| flag.replace('_', "-") == name)
    };
    arguments.windows(2).any(|pair| takes_the_next(&pair[0]) && is_it(&pair[1]))
}

/// The value of the flag `name`, given without dashes; `None` if it is not set. The last one counts; of a list, all do.
/// `_` in a name is as good as `-`, etcd takes one dash for two, a flag alone is `true`, and a value may be a word of its own.
pub(super) fn value(arguments: &[String], name: &str, is_list: bool) -> Option<String> {
    let mut values = Vec::new();
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        let Some(text) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (text, None),
        };
        if flag.replace('_', "-") != name {
            continue;
        }
        let following = words.peek().filter(|word| !word.starts_with('-')).map(|word| word.as_str());
        values.push(value.or(following).unwrap_or("true").to_owned());
    }
    match is_list {
        true if !values.is_empty() => Some(values.join(",")),
        _ => values.pop(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str, name: &str, is_list: bool) -> Option<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        value(&words, name, is_list)
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        assert_eq!(of("--a=1 --b=2 --a=3", "a", false).as_deref(), Some("3"));
        assert_eq!(of("--a=x --a=y,z", "a", true).as_deref(), Some("x,y,z"));
        assert_eq!(of("--anonymous_auth=false", "anonymous-auth", false).as_deref(), Some("false"));
        assert_eq!(of("-cert-file=/x", "cert-file", false).as_deref(), Some("/x"));
        assert_eq!(of("--profiling --x=1", "profiling", false).as_deref(), Some("true"));
        assert_eq!(of("--data-dir /var/lib/etcd", "data-dir", false).as_deref(), Some("/var/lib/etcd"));
        assert_eq!(of("--peer-cert-file=/x", "cert-file", false), None);
        assert_eq!(of("--a=", "a", false).as_deref(), Some(""));
    }

    #[test]
    fn a_flag_may_be_another_ones_value() {
        let doubtful = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            is_doubtful(&words, "profiling")
        };
        assert!(doubtful("--audit-log-path --profiling=false"));
        assert!(doubtful("--profiling=false --audit_log_path --profiling=false"));
        assert!(!doubtful("--audit-log-path=/a --profiling=false"));
        assert!(!doubtful("--audit-log-path /a --profiling=false"));
        assert!(!doubtful("--anonymous-auth --profiling --leader-elect --profiling=false"));
        assert!(!doubtful("--audit-log-path --contention-profiling=false --profiling=false"));
    }
}
