//! Images: looking them up, pulling them, and taking them out.

use std::time::Duration;

use bollard::models::ContainerConfig;
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt};

use super::{Engine, EngineError};

/// How long an engine may take to begin with an archive: it gathers all layers first.
const GATHERING: Duration = Duration::from_secs(1800);

/// An image on the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The image's id, `sha256:...`: the digest of its configuration, and so of its content.
    pub id: String,
    /// What it starts by itself: entry point and arguments.
    pub command: Vec<String>,
}

impl Engine {
    /// Looks an image up on the engine; `None` if it is not there.
    ///
    /// # Errors
    /// [`EngineError`] if the engine does not answer.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, EngineError> {
        match self.docker.inspect_image(reference).await {
            Ok(image) => {
                let config = image.config.unwrap_or_default();
                let command = [config.entrypoint, config.cmd].into_iter().flatten().flatten().collect();
                Ok(image.id.map(|id| Image { id, command }))
            }
            Err(error) => match self.error(format!("looking up the image {reference}"), error) {
                error if error.is_not_found() => Ok(None),
                // The engine answers 400 to a name that no image can have.
                EngineError::Failed { reason, .. } if reason.contains("invalid reference format") => {
                    Err(EngineError::NoImage { reference: reference.to_owned(), reason })
                }
                error => Err(error),
            },
        }
    }

    /// The ids of the images with a label, of whatever value if none is given.
    ///
    /// # Errors
    /// [`EngineError`] if the engine does not answer.
    pub async fn images(&self, label: &str, value: Option<&str>) -> Result<Vec<String>, EngineError> {
        let wanted = value.map_or_else(|| label.to_owned(), |value| format!("{label}={value}"));
        let filters = [("label".to_owned(), vec![wanted])].into();
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let images = self.docker.list_images(Some(options)).await;
        let images = images.map_err(|error| self.error(format!("listing images with the label {label}"), error))?;
        Ok(images.into_iter().map(|image| image.id).collect())
    }

    /// Makes an image of a container that has ended, which starts what `like` does, and has these labels. Gives its id.
    ///
    /// # Errors
    /// [`EngineError::DiskFull`], [`EngineError::NotFound`] if there is no such container, others as they come.
    pub async fn commit(
        &self,
        container: &str,
        (repository, tag): (&str, &str),
        labels: &[(&str, &str)],
        like: &Image,
    ) -> Result<String, EngineError> {
        let options = CommitContainerOptionsBuilder::default().container(container).repo(repository).tag(tag).build();
        let config = ContainerConfig {
            entrypoint: Some(like.command.clone()),
            cmd: Some(Vec::new()),
            labels: Some(labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()),
            ..Default::default()
        };
        // Its layer is written before the engine answers.
        let made = self.docker.clone().with_timeout(GATHERING).commit_container(options, config).await;
        let made = made.map_err(|error| self.error(format!("making the image {repository}:{tag}"), error))?;
        Ok(made.id)
    }

    /// Removes an image; says whether it has. One that a container is made of stays.
    ///
    /// # Errors
    /// [`EngineError`] if the engine does not answer, or does not do it for another reason.
    pub async fn remove_image(&self, id: &str) -> Result<bool, EngineError> {
        match self.docker.remove_image(id, None::<RemoveImageOptions>, None).await {
            Ok(_) => Ok(true),
            Err(error) => match self.error(format!("removing the image {id}"), error) {
                EngineError::Conflict { .. } | EngineError::NotFound { .. } => Ok(false),
                other => Err(other),
            },
        }
    }

    /// An archive of images with their layers, as `docker save` writes it, in pieces. Layers that several have are in it once.
    pub fn export(&self, references: &[&str]) -> impl Stream<Item = Result<Bytes, EngineError>> + use<> {
        let (this, doing) = (self.clone(), format!("reading {}", references.join(", ")));
        let docker = self.docker.clone().with_timeout(GATHERING);
        docker
            .export_images(references)
            .map(move |piece| piece.map_err(|error| this.error(doing.clone(), error)))
            .boxed()
    }

    /// Pulls an image; `progress` gets a line for each change of state.
    ///
    /// # Errors
    /// [`EngineError::NoImage`] if the registry has none or cannot be reached.
    pub async fn pull(&self, reference: &str, progress: impl Fn(&str)) -> Result<Image, EngineError> {
        let no_image = |reason: String| EngineError::NoImage { reference: reference.to_owned(), reason };
        let options = CreateImageOptionsBuilder::default().from_image(reference).build();
        let mut stream = std::pin::pin!(self.docker.create_image(Some(options), None, None));
        while let Some(state) =
            stream.try_next().await.map_err(|error| match self.error(format!("pulling {reference}"), error) {
                unreachable @ EngineError::Unreachable { .. } => unreachable,
                full @ EngineError::DiskFull { .. } => full,
                EngineError::NotFound { reason, .. }
                | EngineError::Failed { reason, .. }
                | EngineError::Conflict { reason, .. } => no_image(reason),
                other => no_image(other.to_string()),
            })?
        {
            if let Some(status) = state.status {
                progress(&status);
            }
        }
        self.image(reference)
            .await?
            .ok_or_else(|| no_image("the engine has pulled it, but does not list it".to_owned()))
    }
}
