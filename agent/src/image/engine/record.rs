//! Image records: a name and the descriptor that it stands for.

use containerd_client::{
    services::v1::{
        CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
    },
    types::Descriptor,
};
use tonic::Code;

use super::{Engine, lease::Collect};
use crate::image::ImageError;

impl Engine {
    /// The record of `name`.
    pub async fn record(&self, name: &str) -> Result<Option<Image>, ImageError> {
        match self.records().get(GetImageRequest { name: name.into() }).await {
            Ok(answer) => Ok(answer.into_inner().image),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(ImageError::engine(format!("looking up image {name}"), &status)),
        }
    }

    /// Every record; with a filter of containerd's only those that match.
    pub async fn list_records(&self, filter: Option<String>) -> Result<Vec<Image>, ImageError> {
        let request = ListImagesRequest { filters: filter.into_iter().collect() };
        let listed = self.records().list(request).await;
        Ok(listed.map_err(|status| ImageError::engine("listing images", &status))?.into_inner().images)
    }

    /// Points `name` to `target`, whether it existed or not.
    pub async fn set_record(&self, name: &str, target: Descriptor) -> Result<Image, ImageError> {
        let failed = |status: tonic::Status| ImageError::engine(format!("recording image {name}"), &status);
        let image = Image { name: name.into(), target: Some(target), ..Default::default() };
        let request = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        let made = match self.records().create(request).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let request = UpdateImageRequest { image: Some(image.clone()), ..Default::default() };
                self.records().update(request).await.map_err(failed)?.into_inner().image
            }
            other => other.map_err(failed)?.into_inner().image,
        };
        Ok(made.unwrap_or(image))
    }

    /// Removes a record. With [`Collect::Now`] what only it held is gone when this returns.
    pub async fn delete_record(&self, name: &str, collect: Collect) -> Result<(), ImageError> {
        let request =
            DeleteImageRequest { name: name.into(), sync: collect == Collect::Now, ..Default::default() };
        match self.records().delete(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Err(ImageError::NotFound(name.to_owned())),
            Err(status) => Err(ImageError::engine(format!("removing image {name}"), &status)),
        }
    }
}
