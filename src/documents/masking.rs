//! Keeping secrets out of what is written down for others to read: logs, most of all.
//!
//! What is secret is known by its looks, or was told before. It knows no file formats but that of audit logs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use zeroize::Zeroizing;

use super::keys::{KeyRing, secret};

/// What stands in place of a secret.
const MASK: &[u8] = b"[masked]";

/// Shorter ones would be found in many a place that has nothing to do with them.
const SHORTEST: usize = 8;

const BEGIN: &[u8] = b"-----BEGIN ";
const KEY: &[u8] = b"PRIVATE KEY-----";
const END: &[u8] = b"-----END ";

/// What `-----BEGIN ` is in base64, as far as it is the same whatever follows.
const BEGIN_BASE64: &[u8] = b"LS0tLS1CRUdJTi";

/// The secrets of a cluster that are known.
#[derive(Default)]
pub struct Secrets(Vec<Zeroizing<Vec<u8>>>);

impl Secrets {
    /// Those of a key ring, as they are and in base64.
    #[must_use]
    pub fn of(keys: Option<&KeyRing>) -> Self {
        let mut all = Vec::new();
        for (name, material) in keys.into_iter().flat_map(|ring| &ring.providers).flat_map(|provider| &provider.keys) {
            if name != secret::CA && name != secret::CERTIFICATE {
                all.push(Zeroizing::new(material.bytes().to_vec()));
                all.push(Zeroizing::new(material.to_base64().as_bytes().to_vec()));
            }
        }
        all.retain(|one| one.len() >= SHORTEST);
        Self(all)
    }
}

/// Masks a text, line after line.
pub struct Masking<'a> {
    secrets: &'a Secrets,
    /// Whether the lines are of a private key.
    in_key: bool,
}

impl<'a> Masking<'a> {
    /// One for a text that begins.
    #[must_use]
    pub fn new(secrets: &'a Secrets) -> Self {
        Self { secrets, in_key: false }
    }

    /// A line, with its end, as others may read it.
    pub fn line(&mut self, line: &[u8]) -> Vec<u8> {
        match without_content(line) {
            Some(audited) => self.masked(&audited),
            None => self.masked(line),
        }
    }

    fn masked(&mut self, line: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(line.len());
        let mut at = 0;
        while at < line.len() {
            let rest = &line[at..];
            if self.in_key {
                match find(rest, END) {
                    None => break,
                    Some(end) => {
                        let close = find(&rest[end..], KEY).map_or(rest.len(), |key| end + key + KEY.len());
                        at += close;
                        self.in_key = false;
                    }
                }
                continue;
            }
            if rest.starts_with(BEGIN)
                && let Some(key) = find(&rest[..rest.len().min(64)], KEY)
            {
                out.extend_from_slice(MASK);
                at += key + KEY.len();
                self.in_key = true;
                continue;
            }
            let inside = at > 0 && is_word(line[at - 1]);
            if let Some(taken) = self.known(rest).or_else(|| if inside { None } else { by_looks(rest) }) {
                out.extend_from_slice(MASK);
                at += taken;
            } else if let Some((user, taken)) = credentials(rest) {
                out.extend_from_slice(&rest[..user]);
                out.extend_from_slice(MASK);
                at += taken;
            } else {
                out.push(line[at]);
                at += 1;
            }
        }
        // A line stays a line.
        if line.ends_with(b"\n") && !out.ends_with(b"\n") {
            out.push(b'\n');
        }
        out
    }

    fn known(&self, rest: &[u8]) -> Option<usize> {
        self.secrets.0.iter().filter(|one| rest.starts_with(one)).map(|one| one.len()).max()
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// What tokens are made of.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+' | b'/' | b'=')
}

fn run(text: &[u8], is: impl Fn(u8) -> bool) -> usize {
    text.iter().position(|&byte| !is(byte)).unwrap_or(text.len())
}

/// How much of what begins here looks like a secret.
fn by_looks(rest: &[u8]) -> Option<usize> {
    if let Some(token) = rest.strip_prefix(b"Bearer ").or_else(|| rest.strip_prefix(b"bearer ")) {
        let length = run(token, is_word);
        return (length >= SHORTEST).then_some(b"Bearer ".len() + length);
    }
    let length = run(rest, is_word);
    let word = &rest[..length];
    if word.starts_with(BEGIN_BASE64) {
        let start = &word[..length.min(64) / 4 * 4];
        let is_key = STANDARD.decode(start).is_ok_and(|text| find(&text, b"PRIVATE KEY").is_some());
        return is_key.then_some(length);
    }
    // A signed token: two parts of JSON and a signature.
    if word.starts_with(b"eyJ") {
        let mut parts = word.split(|&byte| byte == b'.');
        let (head, claims, signature) = (parts.next(), parts.next(), parts.next());
        let is_token = head.is_some_and(|head| head.len() > 8)
            && claims.is_some_and(|claims| claims.starts_with(b"eyJ"))
            && signature.is_some_and(|signature| signature.len() >= 16);
        return is_token.then_some(length);
    }
    // A bootstrap token, such as kubeadm's; a full stop may follow it.
    let token = word.strip_suffix(b".").unwrap_or(word);
    let is_part = |part: &[u8]| part.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_token = token.len() == 23 && token[6] == b'.' && is_part(&token[..6]) && is_part(&token[7..]);
    is_token.then_some(token.len())
}

/// How much comes before the password of an address `://USER:PASSWORD@…` that begins here, and how much until it has ended.
fn credentials(rest: &[u8]) -> Option<(usize, usize)> {
    let authority = rest.strip_prefix(b"://")?;
    let authority = &authority
        [..run(authority, |byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\''))];
    let at = authority.iter().rposition(|&byte| byte == b'@')?;
    let colon = authority[..at].iter().position(|&byte| byte == b':')?;
    Some((3 + colon + 1, 3 + at))
}

/// An event of an audit log that tells what a Secret holds, without that; `None` if it is no such line.
fn without_content(line: &[u8]) -> Option<Vec<u8>> {
    const OBJECTS: [&str; 2] = ["requestObject", "responseObject"];
    if !line.starts_with(b"{") || find(line, b"\"secrets\"").is_none() {
        return None;
    }
    let mut event: Value = serde_json::from_slice(line).ok()?;
    if event["objectRef"]["resource"] != "secrets" {
        return None;
    }
    let fields = event.as_object_mut()?;
    let mut found = false;
    for name in OBJECTS {
        if let Some(object) = fields.get_mut(name) {
            *object = Value::from(String::from_utf8_lossy(MASK));
            found = true;
        }
    }
    let mut text = found.then(|| event.to_string().into_bytes())?;
    text.push(b'\n');
    Some(text)
}

#[cfg(test)]
mod tests {
    use crate::documents::keys::{KeyMaterial, ProviderKeys, ProviderKind};

    use super::*;

    fn masked(text: &str) -> String {
        let material = KeyMaterial::from_text("a secret of sixteen");
        let ring = KeyRing {
            providers: vec![ProviderKeys { kind: ProviderKind::Kms, keys: vec![(secret::TOKEN.to_owned(), material)] }],
        };
        let secrets = Secrets::of(Some(&ring));
        let mut masking = Masking::new(&secrets);
        let lines = text.split_inclusive('\n').flat_map(|line| masking.line(line.as_bytes())).collect();
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn what_is_secret_is_masked_and_nothing_else() {
        for (text, want) in [
            ("nothing here\n", "nothing here\n"),
            ("x a secret of sixteen y", "x [masked] y"),
            ("YSBzZWNyZXQgb2Ygc2l4dGVlbg==", "[masked]"),
            ("token: abcdef.0123456789abcdef\n", "token: [masked]\n"),
            ("abcdef.0123456789abcdef. Then", "[masked]. Then"),
            ("xabcdef.0123456789abcdef", "xabcdef.0123456789abcdef"),
            ("coredns.kube-system.svc", "coredns.kube-system.svc"),
            ("Authorization: Bearer 0123456789", "Authorization: [masked]"),
            ("HTTP_PROXY=http://me:word@proxy:3128/x", "HTTP_PROXY=http://me:[masked]@proxy:3128/x"),
            ("https://10.0.0.1:6443/a@b:c", "https://10.0.0.1:6443/a@b:c"),
            (
                "client-key-data: LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQpNSUlFcEFJQkFBS0NBUUVB\n",
                "client-key-data: [masked]\n",
            ),
            (
                "ca: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSURCVENDQWUyZ0F3SUJBZ0lJ",
                "ca: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSURCVENDQWUyZ0F3SUJBZ0lJ",
            ),
            (
                "\"a\": \"-----BEGIN EC PRIVATE KEY-----\\nMHc\\n-----END EC PRIVATE KEY-----\\n\", b",
                "\"a\": \"[masked]\\n\", b",
            ),
            ("-----BEGIN CERTIFICATE-----\nMIIC\n", "-----BEGIN CERTIFICATE-----\nMIIC\n"),
        ] {
            assert_eq!(masked(text), want, "{text}");
        }
        let token = format!("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.{}", "s".repeat(40));
        assert_eq!(masked(&format!("\"{token}\"")), "\"[masked]\"");
    }

    #[test]
    fn a_key_of_several_lines_is_masked_as_a_whole() {
        let text = "before\n-----BEGIN PRIVATE KEY-----\nMIIE\nvQIB\n-----END PRIVATE KEY----- after\nlast\n";
        assert_eq!(masked(text), "before\n[masked]\n\n\n after\nlast\n");
    }

    #[test]
    fn an_audit_log_does_not_tell_what_secrets_hold() {
        let line = r#"{"kind":"Event","objectRef":{"resource":"secrets","name":"a"},"responseObject":{"data":{"p":"bXlwYXNz"}},"z":1}"#;
        let want =
            r#"{"kind":"Event","objectRef":{"resource":"secrets","name":"a"},"responseObject":"[masked]","z":1}"#;
        assert_eq!(masked(&format!("{line}\n")), format!("{want}\n"));
        let other = "{\"objectRef\":{\"resource\":\"pods\"},\"responseObject\":{\"kind\":\"secrets\"},  \"z\":1}\n";
        assert_eq!(masked(other), other, "not even its spaces are changed");
    }
}
