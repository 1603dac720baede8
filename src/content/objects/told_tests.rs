use super::*;
use datafusion::object_store::memory::InMemory;

fn answer(status: u16, body: &str) -> Error {
    Error::Generic {
        store: "S3",
        source: format!(
            "Error performing GET http://h/b in 1ms - Server returned non-2xx status code: {status} Some Words: {body}"
        )
        .into(),
    }
}

fn body(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>Own words.\nRequestId:1</Message></Error>")
}

#[test]
fn answers_are_said_in_words_that_help() {
    let place = Place {
        kind: Kind::S3,
        base: "s3://posts".into(),
    };
    for (error, state, want) in [
        (
            answer(404, &body("NoSuchBucket")),
            "58P01",
            "there is no such bucket",
        ),
        (
            answer(404, &body("ContainerNotFound")),
            "58P01",
            "there is no such bucket",
        ),
        (
            answer(404, &body("NoSuchKey")),
            "58P01",
            "there is no such object",
        ),
        (answer(404, ""), "58P01", "there is no such object"),
        (
            answer(403, &body("InvalidAccessKeyId")),
            "28000",
            "the key is not known there",
        ),
        (
            answer(403, &body("SignatureDoesNotMatch")),
            "28000",
            "the key's secret is wrong",
        ),
        (
            answer(403, &body("AuthenticationFailed")),
            "28000",
            "the key's secret is wrong",
        ),
        (
            answer(400, &body("ExpiredToken")),
            "28000",
            "the session token is not valid any more",
        ),
        (answer(403, &body("AccessDenied")), "42501", "access denied"),
        (answer(403, ""), "42501", "access denied"),
        (answer(401, ""), "28000", "it wants to know who we are"),
        (
            answer(301, &body("PermanentRedirect")),
            "22023",
            "the bucket is in another region",
        ),
        (
            answer(400, &body("AuthorizationHeaderMalformed")),
            "22023",
            "the bucket is in another region",
        ),
        (answer(503, &body("SlowDown")), "53000", "it is overloaded"),
        (
            answer(500, &body("InternalError")),
            "58030",
            "status 500 (InternalError) Own words.",
        ),
        (answer(418, "no xml"), "58030", "status 418"),
        (
            Error::Generic {
                store: "S3",
                source: "anything".into(),
            },
            "58030",
            "anything",
        ),
    ] {
        let told = place.said("read", &Path::from("a/b.csv"), &error);
        assert_eq!(told.sqlstate, state, "{told}");
        let want = format!("cannot read s3://posts/a/b.csv: {want}");
        assert!(told.why.starts_with(&want), "{told}");
        assert!(!told.why.contains("RequestId"), "{told}");
    }
}

#[tokio::test]
async fn kinds_of_errors_stay_apart_and_what_is_not_allowed_is_not_asked() {
    use datafusion::object_store::{ObjectStoreExt, PutMode};
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let allowed = Allowed::below(&["s3://posts/in".to_owned()]).unwrap();
    let store = Told::new(Kind::S3, "s3://posts".to_owned(), inner, &allowed);
    let inside = Path::from("in/a");
    assert!(matches!(
        store.get(&inside).await,
        Err(Error::NotFound { .. })
    ));
    let create = PutOptions::from(PutMode::Create);
    store
        .put_opts(&inside, "x".into(), create.clone())
        .await
        .unwrap();
    let again = store.put_opts(&inside, "x".into(), create).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    let outside = Path::from("out/a");
    for refused in [
        store.get(&outside).await.map(drop),
        store.head(&outside).await.map(drop),
        store.put(&outside, "x".into()).await.map(drop),
        store.delete(&outside).await,
        store.copy(&inside, &outside).await,
        store.copy(&outside, &inside).await,
        store.rename(&inside, &outside).await,
        store.list_with_delimiter(None).await.map(drop),
        store
            .list(Some(&outside))
            .try_collect::<Vec<_>>()
            .await
            .map(drop),
        store.list(None).try_collect::<Vec<_>>().await.map(drop),
        store.put_multipart(&outside).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
        assert!(
            error.to_string().contains("outside of the content roots"),
            "{error}"
        );
    }
    assert_eq!(store.list(Some(&Path::from("in"))).count().await, 1);
}
