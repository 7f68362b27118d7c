//! Making bundles: keys, signatures, the archive.
//!
//! Same content and version give the same archive but for the signature, which minisign salts.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};
use semver::Version;

use crate::{
    Digest, FORMAT, Kernel, Manifest, ManifestError, Part, ReleaseKey, ReleaseKeyError, Root, Signed,
    bundle::ENTRIES,
};

/// Why no bundle was made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// A verb: `read`.
        attempt: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Minisign's words.
    #[error("cannot {attempt}")]
    Key {
        /// A verb with its object: `make a release key`.
        attempt: &'static str,
        /// Why.
        #[source]
        source: minisign::PError,
    },
    /// The key that was made is not one.
    #[error(transparent)]
    ReleaseKey(#[from] ReleaseKeyError),
    /// No capsule would take it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// A release key that can sign; kept as minisign's own files, without a password.
pub struct SigningKey {
    secret: SecretKey,
    public: ReleaseKey,
    comment: String,
}

impl SigningKey {
    /// Makes a new one; `comment` says whose it is.
    pub fn generate(comment: &str) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Key { attempt: "make a release key", source };
        let pair = KeyPair::generate_unencrypted_keypair().map_err(failed)?;
        Self::of(pair.sk, comment)
    }

    /// Reads one that [`Self::save`], or `minisign -G -W`, has written.
    pub fn load(path: &Path) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Key { attempt: "read the secret release key", source };
        let text = fs::read_to_string(path).map_err(at("read", path))?;
        let boxed = SecretKeyBox::from_string(&text).map_err(failed)?;
        let comment = text.lines().next().and_then(|line| line.strip_prefix("untrusted comment: "));
        Self::of(boxed.into_unencrypted_secret_key().map_err(failed)?, comment.unwrap_or_default())
    }

    /// Writes the secret key, for its owner's eyes only; never over another.
    pub fn save(&self, path: &Path) -> Result<(), WriteError> {
        let failed = |source| WriteError::Key { attempt: "write the secret release key", source };
        let text = self.secret.to_box(Some(&self.comment)).map_err(failed)?.into_string();
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(path).map_err(at("make", path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at("write", path))
    }

    /// Whose signatures these are.
    pub fn public(&self) -> &ReleaseKey {
        &self.public
    }

    /// The text of a `.pub` file.
    pub fn public_text(&self) -> String {
        format!("untrusted comment: {}\n{}\n", self.comment, self.public)
    }

    /// Signs a manifest.
    pub fn sign(&self, manifest: Vec<u8>, version: &Version) -> Result<Signed, WriteError> {
        let failed = |source| WriteError::Key { attempt: "sign the manifest", source };
        // Minisign's default would be the present time.
        let comment = format!("capsule {version}");
        let signature = minisign::sign(None, &self.secret, &manifest[..], Some(&comment), None);
        Ok(Signed { manifest, signature: signature.map_err(failed)?.into_string() })
    }

    fn of(secret: SecretKey, comment: &str) -> Result<Self, WriteError> {
        let failed = |source| WriteError::Key { attempt: "read the release key", source };
        let public = PublicKey::from_secret_key(&secret).map_err(failed)?.to_base64().parse()?;
        Ok(Self { secret, public, comment: comment.lines().next().unwrap_or_default().to_owned() })
    }
}

/// What becomes a bundle.
#[derive(Clone, Debug)]
pub struct Content<'a> {
    /// Of the system.
    pub version: Version,
    /// The least version that it may replace.
    pub minimum_version: Version,
    /// As `uname -m` has it.
    pub architecture: &'a str,
    /// The unified kernel image.
    pub kernel: &'a Path,
    /// The erofs image with its verity tree.
    pub root: &'a Path,
    /// Of the tree.
    pub roothash: Digest,
    /// Where the tree begins.
    pub data_bytes: u64,
}

impl Content<'_> {
    /// Hashes the content; refuses what no capsule would take.
    pub fn manifest(&self) -> Result<Manifest, WriteError> {
        let (sha256, bytes) = hash(self.kernel)?;
        let kernel = Kernel { bytes, sha256 };
        let (sha256, bytes) = hash(self.root)?;
        let root = Root { bytes, sha256, roothash: self.roothash, data_bytes: self.data_bytes };
        let manifest = Manifest {
            format: FORMAT,
            version: self.version.clone(),
            minimum_version: self.minimum_version.clone(),
            architecture: self.architecture.to_owned(),
            kernel,
            root,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn path(&self, part: Part) -> &Path {
        match part {
            Part::Kernel => self.kernel,
            Part::Root => self.root,
        }
    }
}

/// Writes a signed bundle to `path`, and returns its manifest.
pub fn write(content: &Content<'_>, key: &SigningKey, path: &Path) -> Result<Manifest, WriteError> {
    let manifest = content.manifest()?;
    let json = serde_json::to_vec_pretty(&manifest).map_err(ManifestError::from)?;
    let signed = key.sign(json, &manifest.version)?;
    let file = File::create(path).map_err(at("make", path))?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    let failed = at("write", path);
    let texts = [signed.manifest.as_slice(), signed.signature.as_bytes()];
    for ((name, _), text) in ENTRIES.iter().zip(texts) {
        append(&mut archive, name, text.len() as u64, text).map_err(&failed)?;
    }
    for part in Part::ALL {
        let (bytes, _) = part.promised(&manifest);
        let source = File::open(content.path(part)).map_err(at("read", content.path(part)))?;
        append(&mut archive, &part.to_string(), bytes, source).map_err(&failed)?;
    }
    let file = archive.into_inner().and_then(|buffer| buffer.into_inner().map_err(io::Error::from));
    file.and_then(|file| file.sync_all()).map_err(&failed)?;
    Ok(manifest)
}

/// One plain file that says nothing of when and by whom it was made.
fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    bytes: u64,
    content: impl io::Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(bytes);
    archive.append_data(&mut header, name, content)
}

fn hash(path: &Path) -> Result<(Digest, u64), WriteError> {
    let file = File::open(path).map_err(at("read", path))?;
    Digest::of_reader(file, |_| ()).map_err(at("read", path))
}

fn at(attempt: &'static str, path: &Path) -> impl Fn(io::Error) -> WriteError {
    let path = path.to_owned();
    move |source| WriteError::Io { attempt, path: path.clone(), source }
}
