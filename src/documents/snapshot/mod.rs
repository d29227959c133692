//! Snapshots: the few files that make a node that node, kept on the host.
//!
//! Owns the format of a node's archive, the manifest that names and sums everything, and the file that carries a
//! snapshot elsewhere. Where states lie is `adapters::states`' affair; reading a state out of a running cluster and
//! putting it into a new one is `operations::cluster`'s.

mod archive;
mod contents;
mod inspect;
mod manifest;
mod portable;

pub use archive::{Edit, edit, file, pack, pack_canonical, packed_file, unfolded, unpack};
pub use contents::{FILES, LARGEST, VOLUMES, check_images, check_node};
pub use inspect::{Contents, UnfitError, inspect};
pub use manifest::{Blob, Draft, Held, NodeState, ParseError, StateManifest, sha256};
pub use portable::{
    Carried, LARGEST_FILE, Origin, PortableError, is_encrypted, read as read_portable, write as write_portable,
};

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use zeroize::Zeroizing;

    use crate::documents::record::{Record, RecordStatus};

    use super::*;

    /// A state of one file, as tests need it.
    pub(crate) fn draft(cluster: &str, content: &[u8], created: i64) -> Draft {
        let profile = serde_json::from_value(serde_json::json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "p"},
            "spec": {"nodes": [{"role": "control-plane"}]}
        }))
        .unwrap();
        let record = Record {
            name: cluster.parse().unwrap(),
            engine: None,
            status: RecordStatus::Ready,
            generation: 0,
            profile,
            base: PathBuf::new(),
            image: "i".to_owned(),
            image_id: "sha256:1".to_owned(),
            load_balancer_image: None,
            version: "v1.36.2".to_owned(),
            digest: "d".to_owned(),
            api_server_port: 1,
            nodes: Vec::new(),
        };
        let blob = Blob::of(content);
        let manifest = StateManifest {
            format: StateManifest::FORMAT,
            kprov: "0".to_owned(),
            created,
            record,
            subnets: Vec::new(),
            keys: None,
            nodes: vec![NodeState { name: format!("{cluster}-control-plane"), archive: blob.clone(), images: None }],
            held: None,
        };
        Draft { manifest, blobs: vec![(blob, Zeroizing::new(content.to_vec()))] }
    }
}
