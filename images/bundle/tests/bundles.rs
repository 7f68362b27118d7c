//! Bundles as they are made, and as somebody hostile would make them.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Cursor, Read as _},
};

use capsule_bundle::{
    Bundle, BundleError, Digest, MAX_ROOT_BYTES, Manifest, ManifestError, Part, ReleaseKey, SignatureError,
    Signed, Version,
    write::{Content, SigningKey, write},
};
use proptest::prelude::*;
use tempfile::TempDir;

type Entries = Vec<(String, Vec<u8>)>;

/// A bundle with what it was made of.
struct Made {
    dir: TempDir,
    key: SigningKey,
    bytes: Vec<u8>,
}

fn make() -> Made {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("kernel.efi"), vec![3; 5000]).unwrap();
    fs::write(path("root.img"), [vec![5; 8192], vec![7; 4096]].concat()).unwrap();
    let key = SigningKey::generate("the tests' key").unwrap();
    let content = Content {
        version: Version::new(0, 2, 0),
        minimum_version: Version::new(0, 1, 0),
        architecture: "x86_64",
        kernel: &path("kernel.efi"),
        root: &path("root.img"),
        roothash: Digest::of(b"tree"),
        data_bytes: 8192,
    };
    write(&content, &key, &path("a.update")).unwrap();
    let bytes = fs::read(path("a.update")).unwrap();
    Made { dir, key, bytes }
}

fn open(bytes: &[u8]) -> Result<Bundle<Cursor<Vec<u8>>>, BundleError> {
    Bundle::open(Cursor::new(bytes.to_vec()))
}

/// Everything that a capsule asks of a bundle.
fn accept(bytes: &[u8], keys: &[ReleaseKey]) -> Result<Manifest, BundleError> {
    let mut bundle = open(bytes)?;
    let manifest = bundle.signed().verify(keys)?;
    bundle.check_content(|_| ())?;
    Ok(manifest)
}

impl Made {
    fn keys(&self) -> [ReleaseKey; 1] {
        [self.key.public().clone()]
    }

    fn refusal(&self, bytes: &[u8]) -> BundleError {
        accept(bytes, &self.keys()).unwrap_err()
    }

    /// The same content behind another manifest or signature.
    fn with(&self, signed: &Signed) -> Vec<u8> {
        let mut entries = self.entries();
        entries[0].1.clone_from(&signed.manifest);
        entries[1].1 = signed.signature.clone().into_bytes();
        archive(&entries)
    }

    fn signed(&self) -> Signed {
        open(&self.bytes).unwrap().signed().clone()
    }

    fn entries(&self) -> Entries {
        let mut archive = tar::Archive::new(&self.bytes[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }
}

fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, &content[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn a_bundle_is_read_as_it_was_made() {
    let made = make();
    let manifest = accept(&made.bytes, &made.keys()).unwrap();
    assert_eq!(
        (manifest.version.to_string(), manifest.kernel.bytes, manifest.root.bytes),
        ("0.2.0".into(), 5000, 12288)
    );
    let mut bundle = open(&made.bytes).unwrap();
    assert_eq!(bundle.bytes(), made.bytes.len() as u64);
    let mut kernel = Vec::new();
    bundle.part(Part::Kernel).unwrap().read_to_end(&mut kernel).unwrap();
    assert_eq!(kernel, vec![3; 5000]);
    let mut piece = [0; 2];
    bundle.read_at(Part::Root, 8191, &mut piece).unwrap();
    assert_eq!(piece, [5, 7]);
    assert!(bundle.read_at(Part::Root, 12287, &mut piece).is_err(), "past the end of its entry");
}

#[test]
fn minisigns_own_files_hold_the_keys() {
    let made = make();
    let path = made.dir.path().join("release.key");
    made.key.save(&path).unwrap();
    assert!(made.key.save(&path).is_err(), "a secret key is never written over");
    let again = SigningKey::load(&path).unwrap();
    assert_eq!(again.public(), made.key.public());
    let public: ReleaseKey = again.public_text().parse().unwrap();
    assert_eq!((public.number(), public.comment()), (made.key.public().number(), "the tests' key"));
}

#[test]
fn an_unsigned_bundle_is_refused() {
    let made = make();
    let mut entries = made.entries();
    entries.remove(1);
    for bytes in [
        archive(&entries),
        archive(&entries[..1]),
        made.with(&Signed { signature: " ".into(), ..made.signed() }),
    ] {
        let refusal = made.refusal(&bytes);
        assert!(matches!(refusal, BundleError::Signature(SignatureError::Unsigned)), "{refusal}");
    }
}

#[test]
fn a_bundle_signed_by_somebody_else_is_refused_with_their_key_and_ours() {
    let made = make();
    let other = SigningKey::generate("another").unwrap();
    let signed = other.sign(made.signed().manifest, &Version::new(0, 2, 0)).unwrap();
    let refusal = made.refusal(&made.with(&signed)).to_string();
    for number in [other.public().number(), made.key.public().number()] {
        assert!(refusal.contains(&number.to_string()), "{refusal}");
    }
    let nobody = accept(&made.bytes, &[]).unwrap_err().to_string();
    assert!(nobody.contains("trusted: none"), "{nobody}");
}

#[test]
fn a_signature_of_another_manifest_is_refused() {
    let made = make();
    let mut signed = made.signed();
    signed.manifest = String::from_utf8(signed.manifest).unwrap().replace("0.2.0", "9.9.9").into_bytes();
    let refusal = made.refusal(&made.with(&signed));
    assert!(matches!(refusal, BundleError::Signature(SignatureError::Forged(_))), "{refusal}");
    let Signed { manifest, signature } = made.signed();
    let commented = signature.replace("capsule 0.2.0", "capsule 9.9.9");
    let refusal = made.refusal(&made.with(&Signed { manifest: manifest.clone(), signature: commented }));
    assert!(matches!(refusal, BundleError::Signature(SignatureError::Forged(_))), "{refusal}");
    let noise =
        Signed { manifest, signature: "untrusted comment: x\nRUQ\ntrusted comment: y\nAAAA\n".into() };
    let refusal = made.refusal(&made.with(&noise));
    assert!(matches!(refusal, BundleError::Signature(SignatureError::Malformed(_))), "{refusal}");
}

#[test]
fn a_bundle_cut_anywhere_is_truncated() {
    let made = make();
    for end in (0..made.bytes.len()).step_by(97) {
        match made.refusal(&made.bytes[..end]) {
            BundleError::Truncated { expected, actual } => {
                assert!(expected > actual && actual == end as u64, "{end}: {expected} {actual}");
            }
            BundleError::NotOne(_) if end < 512 => {}
            other => panic!("cut at {end}: {other}"),
        }
    }
    let trailing = [made.bytes.clone(), vec![0; 512]].concat();
    assert!(matches!(made.refusal(&trailing), BundleError::Trailing(512)));
}

#[test]
fn content_that_was_changed_is_corrupt() {
    let made = make();
    for (part, at) in [(Part::Kernel, 2), (Part::Root, 3)] {
        let mut entries = made.entries();
        entries[at].1[100] ^= 1;
        let refusal = made.refusal(&archive(&entries));
        assert!(matches!(refusal, BundleError::Corrupt { part: told, .. } if told == part), "{refusal}");
        entries[at].1.push(0);
        let refusal = made.refusal(&archive(&entries));
        assert!(matches!(refusal, BundleError::Size { part: told, .. } if told == part), "{refusal}");
    }
}

#[test]
fn entries_that_are_foreign_doubled_or_out_of_order_are_refused() {
    let made = make();
    let problem = |change: &dyn Fn(&mut Entries)| {
        let mut entries = made.entries();
        change(&mut entries);
        made.refusal(&archive(&entries)).to_string()
    };
    assert!(problem(&|entries| entries.insert(2, ("etc/passwd".into(), vec![1]))).contains("foreign"));
    assert!(problem(&|entries| entries.insert(2, ("kernel.efi".into(), vec![1]))).contains("there twice"));
    assert!(problem(&|entries| entries.insert(3, entries[2].clone())).contains("there twice"));
    assert!(problem(&|entries| entries.push(entries[3].clone())).contains("there twice"));
    assert!(problem(&|entries| entries.swap(2, 3)).contains("too early"));
    assert!(problem(&|entries| entries.swap(0, 1)).contains("too early"));
    assert!(problem(&|entries| entries[0].0 = "README".into()).contains("does not begin with manifest.json"));
    let noise = made.refusal(&vec![9; 4096]).to_string();
    assert!(noise.contains("no update bundle"), "{noise}");
}

#[test]
fn what_is_no_plain_file_is_refused_whatever_its_name() {
    let made = make();
    for kind in [
        tar::EntryType::Symlink,
        tar::EntryType::XHeader,
        tar::EntryType::GNULongName,
        tar::EntryType::GNUSparse,
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_path("manifest.json").unwrap();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_cksum();
        let bytes = [header.as_bytes().as_slice(), &made.bytes].concat();
        let refusal = made.refusal(&bytes).to_string();
        assert!(refusal.contains("no plain file"), "{kind:?}: {refusal}");
    }
}

#[test]
fn oversized_entries_are_refused_before_they_are_read() {
    let made = make();
    let mut header = tar::Header::new_ustar();
    for (name, bytes) in [("manifest.json", 1_u64 << 33), ("manifest.json", u64::MAX >> 1)] {
        header.set_path(name).unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes);
        header.set_cksum();
        let refusal = made.refusal(header.as_bytes());
        assert!(matches!(refusal, BundleError::Oversized { entry: "manifest.json", .. }), "{refusal}");
    }
    let mut manifest: serde_json::Value = serde_json::from_slice(&made.signed().manifest).unwrap();
    manifest["root"]["bytes"] = (MAX_ROOT_BYTES + 4096).into();
    let signed = made.key.sign(manifest.to_string().into_bytes(), &Version::new(0, 2, 0)).unwrap();
    let refusal = made.refusal(&made.with(&signed));
    assert!(matches!(refusal, BundleError::Manifest(ManifestError::Oversized { .. })), "{refusal}");
}

#[test]
fn a_later_format_is_refused_by_its_number() {
    let made = make();
    let signed = made.key.sign(br#"{"format":7}"#.to_vec(), &Version::new(9, 0, 0)).unwrap();
    let refusal = made.refusal(&made.with(&signed)).to_string();
    assert!(refusal.contains("format 7"), "{refusal}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn one_changed_byte_is_never_accepted_as_another_bundle(at: prop::sample::Index, with: u8) {
        let made = make();
        let mut bytes = made.bytes.clone();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let before = accept(&made.bytes, &made.keys()).unwrap();
        // Names' padding, owners and times in headers mean nothing; everything else is refused.
        if let Ok(after) = accept(&bytes, &made.keys()) {
            prop_assert_eq!(before, after);
        }
    }
}
