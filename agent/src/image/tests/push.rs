//! Pushes of archives in every shape.

use std::io::Cursor;

use serde_json::json;

use super::{
    fixture::{blob_path, gzip, oci, tar_files},
    *,
};

async fn push(capsule: &Capsule, name: Option<&str>, archive: Vec<u8>) -> Result<Vec<String>, ImageError> {
    capsule.images.push(name, Cursor::new(archive), &Progress::new()).await
}

/// The image runs from its snapshot and outlives the garbage collector.
async fn assert_usable(capsule: &Capsule, name: &str) -> ImageInfo {
    capsule.images.engine.collect().await.unwrap();
    let info = capsule.images.ensure(name, None).await.unwrap();
    assert!(capsule.images.engine.has_snapshot(&info.chain_id).await.unwrap());
    info
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_oci_archive_is_taken_plain_and_compressed_under_its_name_or_another() {
    let capsule = Capsule::start().await;
    let fixture = Fixture::new(3 << 20).await;
    let archive = fixture.oci(Some("docker.io/library/app:v1"));
    assert_eq!(push(&capsule, None, archive.clone()).await.unwrap(), ["docker.io/library/app:v1"]);
    assert_eq!(assert_usable(&capsule, "app:v1").await.digest, fixture.digest());
    let names = push(&capsule, Some("other:v2"), gzip(&archive).await).await.unwrap();
    assert_eq!(names, ["docker.io/library/other:v2"]);
    let by_digest = format!("app@{}", fixture.digest());
    assert_eq!(assert_usable(&capsule, &by_digest).await.digest, fixture.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_legacy_archive_is_taken_with_linked_layers() {
    let capsule = Capsule::start().await;
    let layer = fixture::tar_of(&[("a", b"a")]);
    let fixture = Fixture::of(vec![layer.clone(), fixture::noise(100_000), layer], "amd64").await;
    let names = push(&capsule, None, fixture.legacy(Some("old/app:v1"))).await.unwrap();
    assert_eq!(names, ["docker.io/old/app:v1"]);
    let info = assert_usable(&capsule, "old/app:v1").await;
    assert_eq!(info.config.rootfs().diff_ids().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_several_images_and_names_of_one_archive_are_all_taken() {
    let capsule = Capsule::start().await;
    let (a, b) = (Fixture::small("a").await, Fixture::small("b").await);
    let archive = oci(&[(&a, Some("a:v1")), (&b, Some("b:v1")), (&a, Some("a:latest"))]);
    let mut names = push(&capsule, None, archive.clone()).await.unwrap();
    names.sort();
    assert_eq!(names, ["docker.io/library/a:latest", "docker.io/library/a:v1", "docker.io/library/b:v1"]);
    assert_eq!(assert_usable(&capsule, "a").await.digest, a.digest());
    assert_eq!(assert_usable(&capsule, "b:v1").await.digest, b.digest());
    let error = push(&capsule, Some("one:name"), archive).await.unwrap_err();
    assert!(text(&error).contains("holds 2 images"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_modern_docker_archive_takes_names_from_docker_s_list() {
    let capsule = Capsule::start().await;
    let fixture = Fixture::small("modern").await;
    let index = json!({"schemaVersion": 2, "manifests": [fixture.descriptor()]});
    let list = json!([{"Config": blob_path(&fixture.config), "RepoTags": ["modern:v1"],
        "Layers": [blob_path(&fixture.layers[0])]}]);
    let mut files = fixture.blobs();
    files.push(("index.json".into(), index.to_string().into()));
    files.push(("manifest.json".into(), list.to_string().into()));
    files.push(("oci-layout".into(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec()));
    assert_eq!(push(&capsule, None, tar_files(&files)).await.unwrap(), ["docker.io/library/modern:v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_refused_archive_leaves_nothing_behind_and_says_why() {
    let capsule = Capsule::start().await;
    let fixture = Fixture::new(2 << 20).await;
    let whole = fixture.oci(Some("app:v1"));
    let mut corrupt = whole.clone();
    let at = corrupt.len() / 2;
    corrupt[at] ^= 1;
    let without = |gone: &[u8]| {
        let index = json!({"schemaVersion": 2, "manifests": [fixture.descriptor()]});
        let mut files = fixture.blobs();
        files.retain(|(path, _)| *path != blob_path(gone));
        files.push(("index.json".into(), index.to_string().into()));
        tar_files(&files)
    };
    let zipped = gzip(&whole).await;
    for (archive, name, reason) in [
        (whole[..whole.len() / 2].to_vec(), None, "ends"),
        (zipped[..zipped.len() / 2].to_vec(), None, "ends"),
        (corrupt, None, "does not match its digest"),
        (without(&fixture.layers[1]), Some("app:v1"), "was it cut off?"),
        (without(&fixture.config), Some("app:v1"), "was it cut off?"),
        (without(&fixture.manifest), Some("app:v1"), "was it cut off?"),
        (fixture.oci(None), None, "has no name"),
        (fixture.legacy(None), None, "has no name"),
        (fixture::tar_of(&[("hello", b"world")]), None, "holds no image"),
        (b"this is no archive at all".to_vec(), None, "tar"),
        (Vec::new(), None, "holds no image"),
        (fixture.oci(Some("App:v1")), None, "lower case"),
    ] {
        let error = text(&push(&capsule, name, archive).await.unwrap_err());
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(capsule.is_empty().await, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_on_a_full_disk_a_push_is_refused_and_leaves_nothing_behind() {
    let capsule = Capsule::over(Containerd::on_small_disk(24 << 20).await, RegistryConfig::default());
    // Once the blobs find no room, once the unpacked layers.
    for size in [40 << 20, 14 << 20] {
        let archive = Fixture::of(vec![fixture::noise(size)], "amd64").await.oci(Some("big:v1"));
        let error = push(&capsule, None, archive).await.unwrap_err();
        assert!(matches!(error, ImageError::DiskFull { .. }), "{error:?}");
        assert!(capsule.is_empty().await);
    }
    push(&capsule, None, Fixture::small("small").await.oci(Some("small:v1"))).await.unwrap();
}
