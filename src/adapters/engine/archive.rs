//! Archives of files, into containers and out of them.

use bollard::query_parameters::{DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::TryStreamExt;
use zeroize::Zeroizing;

use crate::documents::files::{Tarball, first_file};

use super::{Engine, EngineError};

impl Engine {
    /// Unpacks `archive` at `/` in a container, running or not.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container, [`EngineError::DiskFull`] if there is no room.
    pub async fn put_archive(&self, container: &str, archive: Tarball) -> Result<(), EngineError> {
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        self.docker
            .upload_to_container(container, Some(options), bollard::body_full(Bytes::from_owner(archive)))
            .await
            .map_err(|error| self.error(format!("putting files into {container}"), error))
    }

    /// An archive of a file or folder in a container, running or not, of at most so many bytes: whoever is root there decides
    /// how large a file is.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such path, [`EngineError::Large`] if there is more of it.
    pub async fn get_archive(&self, container: &str, path: &str, most: usize) -> Result<Tarball, EngineError> {
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut stream = std::pin::pin!(self.docker.download_from_container(container, Some(options)));
        let mut archive = Zeroizing::new(Vec::new());
        while let Some(chunk) =
            stream.try_next().await.map_err(|error| self.error(format!("reading {path} in {container}"), error))?
        {
            if archive.len() + chunk.len() > most {
                return Err(EngineError::Large { path: path.to_owned(), container: container.to_owned(), most });
            }
            archive.extend_from_slice(&chunk);
        }
        Ok(archive)
    }

    /// The bytes of a file in a container, running or not, at most so many; `None` if there is no such file.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] never; [`EngineError::Large`] if there are more of them, others as they come.
    pub async fn read_file(
        &self,
        container: &str,
        path: &str,
        most: usize,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, EngineError> {
        match self.get_archive(container, path, most).await {
            Ok(archive) => Ok(first_file(&archive)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
