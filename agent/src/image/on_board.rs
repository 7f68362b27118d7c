//! Images that lie beside the agent as archives.

use std::{fs::File, io::Read as _, path::Path};

use oci_spec::image::ImageIndex;
use tokio::io::BufReader;

use super::{ImageError, ImageInfo, Images, Progress, archive, reference};

const INDEX: &str = "index.json";

impl Images {
    /// The only image of an OCI archive on this machine, unpacked. The archive is taken where this capsule does
    /// not have just that image; nothing is asked of a network.
    pub async fn ensure_archive(&self, path: &Path) -> Result<ImageInfo, ImageError> {
        let unreadable =
            |error: &dyn std::fmt::Display| ImageError::Archive(format!("{}: {error}", path.display()));
        let owned = path.to_owned();
        let listed = tokio::task::spawn_blocking(move || listed(&owned)).await;
        let (name, digest) = listed.map_err(|error| unreadable(&error))??;
        let reference = reference::parse(&name)?;
        let known = self.engine.record(&reference.whole()).await?.and_then(|record| record.target);
        if known.is_some_and(|target| target.digest == digest)
            && let Some(info) = self.ensure_local(&reference).await?
        {
            return Ok(info);
        }
        let file = tokio::fs::File::open(path).await.map_err(|error| unreadable(&error))?;
        self.push(None, BufReader::new(file), &Progress::new()).await?;
        self.ensure_local(&reference).await?.ok_or_else(|| ImageError::NotFound(reference.whole()))
    }
}

/// Name and digest of the archive's image, by the index near its beginning.
fn listed(path: &Path) -> Result<(String, String), ImageError> {
    let damaged = |why: &str| ImageError::Archive(format!("{}: {why}", path.display()));
    let read = || -> std::io::Result<Option<Vec<u8>>> {
        for entry in tar::Archive::new(File::open(path)?).entries()? {
            let mut entry = entry?;
            if entry.path_bytes().as_ref() == INDEX.as_bytes() {
                let mut text = Vec::new();
                entry.read_to_end(&mut text)?;
                return Ok(Some(text));
            }
        }
        Ok(None)
    };
    let text = read().map_err(|error| damaged(&error.to_string()))?;
    let text = text.ok_or_else(|| damaged("it has no index.json"))?;
    let index: ImageIndex = serde_json::from_slice(&text).map_err(|error| damaged(&error.to_string()))?;
    let [image] = &index.manifests()[..] else { return Err(damaged("it does not hold one image")) };
    let name = archive::annotated_name(image).ok_or_else(|| damaged("its image has no name"))?;
    Ok((name, image.digest().to_string()))
}
