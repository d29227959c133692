//! Container images, written as one archive in OCI layout, which containerd imports.
//!
//! Layers are compressed with zstd: a node's store is copied when the node is created and unpacked when it starts, so both
//! size and speed count. The same folders give the same bytes.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{apt, sh::cmd};

/// A layer in an archive.
#[derive(Clone)]
pub(super) struct Layer {
    descriptor: Value,
    diff_id: String,
}

/// An image to be written.
pub(super) struct Image {
    /// The full name, with its tag.
    pub(super) name: String,
    /// The command that a container runs unless told otherwise.
    pub(super) entrypoint: Vec<String>,
    /// The layers, the lowest first.
    pub(super) layers: Vec<Layer>,
}

/// An archive being written.
pub(super) struct Archive {
    tar: tar::Builder<File>,
    manifests: Vec<Value>,
}

impl Archive {
    /// Begins an archive in a new file.
    pub(super) fn create(file: &Path) -> Result<Self> {
        let file = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { tar: tar::Builder::new(file), manifests: Vec::new() })
    }

    /// Adds a folder's contents as a layer.
    pub(super) fn layer(&mut self, folder: &Path) -> Result<Layer> {
        let mut compressed = tempfile::tempfile()?;
        let mut zstd = cmd("zstd", ["-6", "--threads=0", "--quiet", "--stdout"])
            .stdin(Stdio::piped())
            .stdout(compressed.try_clone()?)
            .spawn()
            .context("cannot start `zstd`")?;
        let mut plain = Hashing { inner: zstd.stdin.take().context("zstd has no input")?, hash: Sha256::new() };
        let written = write_tree(&mut plain, folder);
        let diff_id = plain.finish();
        let status = zstd.wait()?;
        if !status.success() {
            bail!("`zstd` failed: {status}");
        }
        written?;
        let mut bytes = Vec::new();
        compressed.rewind()?;
        compressed.read_to_end(&mut bytes)?;
        let digest = hex(&Sha256::digest(&bytes));
        self.append(&format!("blobs/sha256/{digest}"), &bytes)?;
        Ok(Layer {
            descriptor: json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
                "digest": format!("sha256:{digest}"),
                "size": bytes.len(),
            }),
            diff_id: format!("sha256:{diff_id}"),
        })
    }

    /// Adds an image of layers that were added before.
    pub(super) fn image(&mut self, image: &Image) -> Result<()> {
        let mut settings = json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        });
        if !image.entrypoint.is_empty() {
            settings["Entrypoint"] = json!(image.entrypoint);
        }
        let diff_ids: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let configuration = self.blob(
            "application/vnd.oci.image.config.v1+json",
            &json!({
                "architecture": apt::architecture(),
                "os": "linux",
                "config": settings,
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            }),
        )?;
        let layers: Vec<&Value> = image.layers.iter().map(|layer| &layer.descriptor).collect();
        let mut manifest = self.blob(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": configuration,
                "layers": layers,
            }),
        )?;
        manifest["annotations"] = json!({ "io.containerd.image.name": image.name });
        self.manifests.push(manifest);
        Ok(())
    }

    /// Writes the index and ends the archive.
    pub(super) fn finish(mut self) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "manifests": self.manifests });
        self.append("index.json", &serde_json::to_vec(&index)?)?;
        self.append("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)?;
        self.tar.into_inner()?.flush()?;
        Ok(())
    }

    fn blob(&mut self, media_type: &str, content: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(content)?;
        let digest = hex(&Sha256::digest(&bytes));
        self.append(&format!("blobs/sha256/{digest}"), &bytes)?;
        Ok(json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
        }))
    }

    fn append(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len())?);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, path, bytes)?;
        Ok(())
    }
}

/// Writes a folder's contents as a tar archive that does not depend on who wrote them when.
fn write_tree(to: impl Write, folder: &Path) -> Result<()> {
    let mut tar = tar::Builder::new(to);
    write_folder(&mut tar, folder, Path::new(""))?;
    tar.into_inner()?;
    Ok(())
}

fn write_folder(tar: &mut tar::Builder<impl Write>, root: &Path, relative: &Path) -> Result<()> {
    let mut entries = fs::read_dir(root.join(relative))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = relative.join(entry.file_name());
        let metadata = entry.metadata()?;
        let mut header = tar::Header::new_gnu();
        header.set_mode(metadata.permissions().mode() & 0o7777);
        header.set_size(0);
        if metadata.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, &path, fs::read_link(entry.path())?)?;
        } else if metadata.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, &path, io::empty())?;
            write_folder(tar, root, &path)?;
        } else {
            header.set_size(metadata.len());
            tar.append_data(&mut header, &path, File::open(entry.path())?)?;
        }
    }
    Ok(())
}

/// A writer that hashes what passes through it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W> Hashing<W> {
    /// Closes the writer beneath; the digits of the hash.
    fn finish(self) -> String {
        hex(&self.hash.finalize())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
