use super::*;

fn uploads() -> (tempfile::TempDir, Uploads) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, Uploads::new(store))
}

#[test]
fn pieces_become_a_blob_across_a_restart() {
    let (_dir, uploads) = uploads();
    let id = uploads.start().unwrap();
    let mut session = uploads.session(&id, Some(0)).unwrap();
    session.write_all(b"hello ").unwrap();
    drop(session);
    assert_eq!(uploads.received(&id).unwrap(), 6);

    let later = Uploads::new(uploads.store().clone());
    let mut session = later.session(&id, Some(6)).unwrap();
    session.write_all(b"world").unwrap();
    let blob = session.finish(Digest::of(b"hello world")).unwrap();
    assert_eq!(blob.size, 11);
    let bytes = later.store().read_small(blob.digest, 11).unwrap();
    assert_eq!(bytes, b"hello world");
    assert!(matches!(
        later.session(&id, None),
        Err(UploadError::Unknown(_))
    ));
}

#[test]
fn blobs_may_be_named_by_sha512() {
    let (_dir, uploads) = uploads();
    let name = AnyDigest::of(Algorithm::Sha512, b"hello world");
    // Announced before the first byte, after it, and never.
    for announced in [Some(0), Some(1), None] {
        let id = uploads.start().unwrap();
        for (at, part) in [&b"hello "[..], b"world"].into_iter().enumerate() {
            let mut session = uploads.session(&id, None).unwrap();
            if announced == Some(at) {
                session.expect(Algorithm::Sha512);
            }
            session.write_all(part).unwrap();
        }
        let session = uploads.session(&id, None).unwrap();
        let blob = session.finish(&name).unwrap();
        assert_eq!(blob.digest, Digest::of(b"hello world"));
        assert_eq!(uploads.store().read_small(&name, 11).unwrap().len(), 11);
        assert!(uploads.store().remove(&blob.digest).unwrap());
    }
    let id = uploads.start().unwrap();
    let session = uploads.session(&id, None).unwrap();
    assert!(matches!(
        session.finish(&name),
        Err(UploadError::Blob(BlobError::Mismatch { size: 0, .. }))
    ));
}

#[test]
fn names_are_uuids() {
    let id = UploadId::random().to_string();
    assert_eq!(id.len(), 36);
    assert_eq!(id.as_bytes()[14], b'4', "{id}");
    assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
    assert_eq!(id.parse::<UploadId>().unwrap().to_string(), id);
}

#[test]
fn refusals() {
    let (_dir, uploads) = uploads();
    let id = uploads.start().unwrap();
    let mut session = uploads.session(&id, None).unwrap();
    session.write_all(b"abc").unwrap();
    assert!(matches!(
        uploads.session(&id, None),
        Err(UploadError::Busy(_))
    ));
    drop(session);
    assert!(matches!(
        uploads.session(&id, Some(5)),
        Err(UploadError::OutOfOrder {
            expected: 3,
            got: 5,
            ..
        })
    ));
    let session = uploads.session(&id, Some(3)).unwrap();
    assert!(matches!(
        session.finish(Digest::of(b"abd")),
        Err(UploadError::Blob(BlobError::Mismatch { .. }))
    ));
    assert!(matches!(
        uploads.received(&id),
        Err(UploadError::Unknown(_))
    ));
    for bad in [
        "",
        "../../etc/passwd",
        "ABCDEF",
        &"g".repeat(36),
        &"0".repeat(36),
    ] {
        assert_eq!(bad.parse::<UploadId>(), Err(InvalidUploadId));
    }
}

#[test]
fn idle_uploads_are_swept_and_busy_ones_stay() {
    let (_dir, uploads) = uploads();
    let idle = uploads.start().unwrap();
    let busy = uploads.start().unwrap();
    let session = uploads.session(&busy, None).unwrap();
    assert_eq!(uploads.sweep(Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(uploads.sweep(Duration::ZERO).unwrap(), 1);
    assert!(uploads.received(&idle).is_err());
    drop(session);
    uploads.cancel(&busy).unwrap();
    assert!(uploads.cancel(&busy).is_err());
}
