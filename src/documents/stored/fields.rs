//! The fields of a stored value, as far as they can be read without a key.

use serde::Serialize;

use super::{Stored, classify, envelope};

/// What a stored protobuf begins with (k8s.io/apimachinery/pkg/runtime/serializer/protobuf).
const PROTOBUF: &[u8] = b"k8s\0";

/// A field and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// The field's path.
    pub name: String,
    /// What it holds, as text.
    pub value: String,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<24} {}", self.name, self.value)
    }
}

/// The fields of a stored value: of an object in the clear what it is called and what it holds, of an
/// encrypted one what encrypted it.
#[must_use]
pub fn fields(value: &[u8]) -> Vec<Field> {
    let mut fields = Fields(Vec::new());
    match classify(value) {
        Stored::Encrypted { provider, version, key } => {
            let prefix = format!("k8s:enc:{provider}:{version}:{key}:").len();
            fields.add("provider", &format!("{provider} ({version})"));
            fields.add("key", &key);
            let ciphertext = match envelope(value) {
                None => value.len().saturating_sub(prefix),
                Some(envelope) => {
                    fields.add("kms.key", envelope.key.as_deref().unwrap_or("not told"));
                    fields.add("kms.wrapped", &format!("{} bytes: a {}", envelope.wrapped, envelope.source));
                    for name in &envelope.annotations {
                        fields.add("kms.annotation", name);
                    }
                    envelope.ciphertext
                }
            };
            fields.add("ciphertext", &format!("{ciphertext} bytes"));
        }
        Stored::Plain => match value.strip_prefix(PROTOBUF) {
            Some(rest) => fields.protobuf(rest),
            None => fields.json(value),
        },
    }
    fields.0
}

struct Fields(Vec<Field>);

impl Fields {
    fn add(&mut self, name: &str, value: &str) {
        self.0.push(Field { name: name.to_owned(), value: value.to_owned() });
    }

    fn add_text(&mut self, name: &str, bytes: &[u8]) {
        self.add(name, &String::from_utf8_lossy(bytes).escape_debug().to_string());
    }

    /// A `runtime.Unknown`: the type, then the object. Field numbers are those of the API's generated.proto files.
    fn protobuf(&mut self, bytes: &[u8]) {
        let unknown = message(bytes);
        let type_meta = message(first(&unknown, 1));
        let (api_version, kind) = (first(&type_meta, 1), first(&type_meta, 2));
        self.add_text("apiVersion", api_version);
        self.add_text("kind", kind);
        let object = message(first(&unknown, 2));
        let metadata = message(first(&object, 1));
        for (number, name) in [(1, "metadata.name"), (3, "metadata.namespace"), (5, "metadata.uid")] {
            if let Some((_, bytes)) = metadata.iter().find(|(found, _)| *found == number) {
                self.add_text(name, bytes);
            }
        }
        // Secret and ConfigMap keep their data in a map in field 2; a Secret's type is field 3.
        if api_version == b"v1" && matches!(kind, b"Secret" | b"ConfigMap") {
            for (_, entry) in object.iter().filter(|(number, _)| *number == 2) {
                let entry = message(entry);
                let key = String::from_utf8_lossy(first(&entry, 1)).escape_debug().to_string();
                self.add_text(&format!("data.{key}"), first(&entry, 2));
            }
            if kind == b"Secret" {
                self.add_text("type", first(&object, 3));
            }
        }
    }

    /// Custom resources are stored as JSON.
    fn json(&mut self, bytes: &[u8]) {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
        self.walk("", &value);
    }

    fn walk(&mut self, path: &str, value: &serde_json::Value) {
        match value {
            serde_json::Value::Object(map) if path != "metadata.managedFields" => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    self.walk(&path, value);
                }
            }
            serde_json::Value::String(text) => self.add(path, &text.escape_debug().to_string()),
            other => self.add(path, &other.to_string()),
        }
    }
}

/// The length-delimited fields of a protobuf message, with their numbers; empty where it is none.
pub(super) fn message(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut fields = Vec::new();
    while let Some((tag, rest)) = varint(bytes) {
        let (number, wire_type) = (tag >> 3, tag & 7);
        let skip = match wire_type {
            0 => varint(rest).map(|(_, behind)| rest.len() - behind.len()),
            1 => Some(8),
            5 => Some(4),
            2 => {
                let Some((length, content)) = varint(rest) else { return fields };
                let Some(content) = usize::try_from(length).ok().and_then(|length| content.get(..length)) else {
                    return fields;
                };
                fields.push((number, content));
                Some(rest.len() - varint(rest).map_or(0, |(_, behind)| behind.len()) + content.len())
            }
            _ => None,
        };
        let Some(behind) = skip.and_then(|skip| rest.get(skip..)) else { return fields };
        bytes = behind;
    }
    fields
}

pub(super) fn first<'a>(fields: &[(u64, &'a [u8])], number: u64) -> &'a [u8] {
    fields.iter().find(|(found, _)| *found == number).map_or(&[], |(_, bytes)| bytes)
}

/// The last varint field of a protobuf message that has this number.
pub(super) fn number(mut bytes: &[u8], wanted: u64) -> Option<u64> {
    let mut found = None;
    while let Some((tag, rest)) = varint(bytes) {
        let behind = match tag & 7 {
            0 => {
                let (value, behind) = varint(rest)?;
                if tag >> 3 == wanted {
                    found = Some(value);
                }
                Some(behind)
            }
            1 => rest.get(8..),
            5 => rest.get(4..),
            2 => varint(rest).and_then(|(length, content)| content.get(usize::try_from(length).ok()?..)),
            _ => None,
        };
        bytes = behind?;
    }
    found
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        bytes.extend_from_slice(content);
        bytes
    }

    fn shown(value: &[u8]) -> Vec<(String, String)> {
        fields(value).into_iter().map(|field| (field.name, field.value)).collect()
    }

    #[test]
    fn a_secret_in_the_clear_gives_everything_away() {
        let type_meta = [field(1, b"v1"), field(2, b"Secret")].concat();
        let metadata = [field(1, b"my-secret"), field(3, b"default")].concat();
        let data = [field(1, b"password"), field(2, b"mypassword")].concat();
        let object = [field(1, &metadata), field(2, &data), field(3, b"Opaque")].concat();
        let value = [PROTOBUF, &field(1, &type_meta), &field(2, &object)].concat();
        let expected = [
            ("apiVersion", "v1"),
            ("kind", "Secret"),
            ("metadata.name", "my-secret"),
            ("metadata.namespace", "default"),
            ("data.password", "mypassword"),
            ("type", "Opaque"),
        ];
        assert_eq!(shown(&value), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn an_encrypted_value_tells_only_what_encrypted_it() {
        let value = b"k8s:enc:aescbc:v1:key1:0123456789abcdef";
        let expected = [("provider", "aescbc (v1)"), ("key", "key1"), ("ciphertext", "16 bytes")];
        assert_eq!(shown(value), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn garbage_is_no_reason_to_panic() {
        assert!(shown(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_empty());
        assert_eq!(shown(b"k8s\0\x0a\x7fshort").len(), 2);
        assert_eq!(shown(br#"{"spec":{"a":1}}"#), [("spec.a".to_owned(), "1".to_owned())]);
    }
}
