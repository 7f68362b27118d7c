//! Listing, removing and pruning.

use std::io::Cursor;

use super::*;

async fn with_images(names: &[&str]) -> Capsule {
    let capsule = Capsule::start().await;
    for name in names {
        let archive = Fixture::small(name).await.oci(Some(name));
        capsule.images.push(None, Cursor::new(archive), &Progress::new()).await.unwrap();
    }
    capsule
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_list_shows_sizes_and_users_and_a_used_image_stays() {
    let capsule = with_images(&["a:v1", "b:v1"]).await;
    let users = Users::of(&[("a:v1", "web"), ("docker.io/library/a:v1", "db")]);
    let list = capsule.images.list(&*users).await.unwrap();
    let names: Vec<_> = list.iter().map(|image| image.reference.as_str()).collect();
    assert_eq!(names, ["docker.io/library/a:v1", "docker.io/library/b:v1"]);
    let fixture = Fixture::small("a:v1").await;
    let size = fixture.layers[0].len() + fixture.config.len() + fixture.manifest.len();
    assert_eq!((list[0].size_bytes, &list[0].digest), (size as u64, &fixture.digest()));
    assert_eq!((&list[0].used_by[..], list[1].used_by.len()), (&["web".into(), "db".into()][..], 0));
    assert!(list[0].created_at.is_some());

    let error = text(&capsule.images.remove("a:v1", &*users).await.unwrap_err());
    assert!(error.contains("workload web, workload db"), "{error}");
    capsule.images.remove("b:v1", &*users).await.unwrap();
    let error = capsule.images.remove("b:v1", &*users).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
    capsule.images.remove("a:v1", &*Users::of(&[])).await.unwrap();
    assert!(capsule.is_empty().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_pruning_keeps_what_is_used_and_measures_what_it_freed() {
    let capsule = with_images(&["a:v1", "b:v1", "c:v1"]).await;
    let users = Users::of(&[("a:v1", "web")]);
    let kept = capsule.images.get("a:v1").await.unwrap().unwrap();
    let pruned = capsule.images.prune(&*users).await.unwrap();
    assert_eq!(pruned.removed, ["docker.io/library/b:v1", "docker.io/library/c:v1"]);
    assert!(pruned.freed_bytes > 8000, "{}", pruned.freed_bytes);
    assert!(capsule.images.engine.has_snapshot(&kept.chain_id).await.unwrap());
    let again = capsule.images.prune(&*users).await.unwrap();
    assert_eq!((again.removed.len(), again.freed_bytes), (0, 0));
    assert_eq!(capsule.images.engine.blobs().await.unwrap().len(), 3);
}
