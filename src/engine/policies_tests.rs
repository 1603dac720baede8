//! What several processes and a folder make of one store.

use super::*;
use std::fs;

fn text(rule: &str) -> String {
    format!("---\nlabels: [allowed, bad]\n---\nbad if {rule}")
}

fn policy(rule: &str) -> Policy {
    Policy::parse_as("mine", &text(rule)).unwrap()
}

async fn told(registry: &Registry, store: &Store, rule: &str, by: &str) -> Published {
    publish(registry, store, policy(rule), ("", by))
        .await
        .unwrap()
}

#[tokio::test]
async fn processes_number_their_versions_after_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        Store::open(dir.path()).unwrap(),
        Store::open(dir.path()).unwrap(),
    );
    let (here, there) = (registry(&one).await.unwrap(), registry(&two).await.unwrap());
    let first = told(&here, &one, "it sells", "ann").await;
    assert_eq!((first.version.number, first.new), (1, true));
    // The other process does not know of it, and neither takes its number nor publishes the same text again.
    let same = told(&there, &two, "it sells", "bob").await;
    assert_eq!((same.version.number, same.new), (1, false));
    assert_eq!(same.version.published_by, "ann");
    let second = told(&there, &two, "it lies", "bob").await;
    assert_eq!(second.version.number, 2);
    // What is asked for by a version that is not known is looked for; the current one is what was known.
    assert_eq!(here.resolve("mine").unwrap().number, 1);
    assert_eq!(here.resolve("mine@2").unwrap().published_by, "bob");
    assert_eq!(here.resolve("mine").unwrap().number, 2);
    assert!(here.resolve("mine@3").is_err());
    told(&here, &one, "it shouts", "ann").await;
    assert_eq!(there.resolve("mine").unwrap().number, 2);
    refresh(&there, &two).await.unwrap();
    assert_eq!(there.resolve("mine").unwrap().number, 3);
    assert_eq!(here.versions(), there.versions());
}

#[tokio::test]
async fn a_version_that_is_not_stored_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        Store::open(dir.path()).unwrap(),
        Store::open(dir.path()).unwrap(),
    );
    let here = registry(&one).await.unwrap();
    // Another process takes the number between the look and the write.
    let taken = VersionRow {
        published_by: Some("bob".into()),
        ..version_row(&here.draft(policy("it lies"), "", "bob", 1).unwrap().version)
    };
    two.append_version(taken).await.unwrap();
    let refused = one
        .append_version(version_row(
            &here
                .draft(policy("it sells"), "", "ann", 1)
                .unwrap()
                .version,
        ))
        .await;
    assert!(matches!(refused, Err(StoreError::VersionTaken { .. })));
    let published = told(&here, &one, "it sells", "ann").await;
    assert_eq!(published.version.number, 2);
    assert_eq!(here.resolve("mine@1").unwrap().published_by, "bob");
}

#[tokio::test]
async fn a_folder_gives_way_to_people_until_its_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::ephemeral().unwrap();
    let registry = registry(&store).await.unwrap();
    let file = dir.path().join("mine.md");
    let broken = dir.path().join("broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("policy.md"), "no labels").unwrap();
    fs::write(dir.path().join("README.md"), "about").unwrap();
    let take = async || {
        let lines = publish_folder(&registry, &store, dir.path()).await.unwrap();
        let (bad, said): (Vec<_>, Vec<_>) = lines.into_iter().partition(|l| l.contains("broken"));
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(bad[0].contains("it declares no labels"), "{bad:?}");
        said
    };
    let published = |n: u32| vec![format!("published mine@{n} from {}", file.display())];
    assert!(take().await.is_empty());
    fs::write(&file, text("it sells")).unwrap();
    assert_eq!(take().await, published(1));
    let current = registry.resolve("mine").unwrap();
    assert_eq!(current.published_by, FOLDER_BY);
    assert_eq!(current.note, file.display().to_string());
    assert!(take().await.is_empty(), "nothing changed");
    told(&registry, &store, "it lies", "ann").await;
    assert!(take().await.is_empty(), "a person's version stays");
    fs::write(&file, text("it shouts")).unwrap();
    assert_eq!(take().await, published(3));
    fs::write(&file, text("it sells")).unwrap();
    assert_eq!(take().await, published(4), "back to an older text");
    fs::write(&file, format!("{}\n", text("it sells"))).unwrap();
    assert!(take().await.is_empty(), "the same policy");
    let missing = publish_folder(&registry, &store, &dir.path().join("none")).await;
    assert!(missing.unwrap_err().to_string().contains("none: No such"));
}
