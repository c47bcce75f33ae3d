//! Unedited messages come out byte for byte, and edits change only what they name.

use super::*;

const TRACE: &[u8] = b"Received: by relay; now\r\n";

/// A folder that is removed at the end of the test.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn in_memory(text: impl Into<Bytes>) -> Content {
    Content::new(Body::Memory(text.into()))
}

fn in_file(folder: &Path, text: &[u8]) -> Content {
    let path = folder.join("body");
    std::fs::write(&path, text).expect("a writable folder");
    Content::new(Body::File {
        path: path.into(),
        len: text.len() as u64,
    })
}

fn bytes_of(body: &Body) -> Vec<u8> {
    match body {
        Body::Memory(bytes) => bytes.to_vec(),
        Body::File { path, len } => {
            let bytes = std::fs::read(path).expect("the body's file");
            assert_eq!(bytes.len() as u64, *len);
            bytes
        }
    }
}

/// What goes out, below the trace fields.
fn finished(content: Content) -> Vec<u8> {
    let (head, body) = content.finish(Bytes::from_static(TRACE)).expect("a readable body");
    let mut out = head.strip_prefix(TRACE).expect("the trace fields are on top").to_vec();
    out.extend_from_slice(&bytes_of(&body));
    out
}

fn values(content: &Content, name: &str) -> Vec<String> {
    let values = content.header(name).expect("a readable body");
    values
        .iter()
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .collect()
}

const ODD: &[&[u8]] = &[
    b"",
    b"\r\n",
    b"\r\n\r\n",
    b"body only\r\n",
    b" begins folded\r\nA: b\r\n\r\nx\r\n",
    b"A: b",
    b"A: b\r\n",
    b"A: b\r\nbody at once\r\n",
    b"A: b\r\n\r\n",
    b"A: b\r\n\r\nbody without end",
    b":\r\n::\r\n\r\n",
    b"From me\r\nA: b\r\n\r\nx\r\n",
    b"A : b\r\n\tc\r\na:\r\nA: \xff\xfe\x00\r\n\r\n\xff\x00",
    b"A: b\n\nbare\nLF\n",
    b"\0\0\0",
    b"\r",
    b"A: b\r\n\r",
];

/// Arbitrary bytes that look a little like messages, always the same ones.
fn noise(seed: u64) -> Vec<u8> {
    let pieces: &[&[u8]] = &[
        b"A",
        b":",
        b" ",
        b"\r\n",
        b"\n",
        b"\t",
        b"\r",
        b"Subject: x\r\n",
        b"\xe9",
        b"\0",
        b"a: b\r\n",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::new();
    for _ in 0..seed % 40 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(pieces[(state % pieces.len() as u64) as usize]);
    }
    bytes
}

fn odd_messages() -> impl Iterator<Item = Vec<u8>> {
    ODD.iter().map(|bytes| bytes.to_vec()).chain((0..3000).map(noise))
}

#[test]
fn unedited_messages_come_out_as_they_came_in() {
    for message in odd_messages() {
        let content = in_memory(message.clone());
        let offset = content.body_offset().expect("memory");
        assert!(offset <= content.size());
        assert_eq!(content.size(), message.len() as u64);
        content.header("a").expect("memory");
        assert_eq!(content.whole().expect("memory"), message);
        assert_eq!(finished(content), message, "{}", message.escape_ascii());
    }
}

#[test]
fn edits_of_odd_messages_keep_all_that_they_do_not_name() {
    for message in odd_messages() {
        let plain = in_memory(message.clone());
        let offset = plain.body_offset().expect("memory") as usize;
        let body = &message[offset..];

        let mut top = plain.clone();
        top.add_header("X-Top", b"1", Place::Top).expect("a good field");
        let out = finished(top.clone());
        assert_eq!(top.whole().expect("memory"), out, "what is read is what goes out");
        assert_eq!(out.len() as u64, top.size());
        let rest = out.strip_prefix(b"X-Top: 1\r\n").expect("on top");
        assert!(rest == message || (offset == 0 && rest.strip_prefix(b"\r\n") == Some(&message[..])));

        let mut bottom = plain.clone();
        bottom
            .add_header("X-Bottom", b"1", Place::Bottom)
            .expect("a good field");
        let out = finished(bottom.clone());
        assert!(out.ends_with(body), "{}", message.escape_ascii());
        let again = in_memory(out);
        assert_eq!(values(&again, "x-bottom"), ["1"], "{}", message.escape_ascii());
        assert_eq!(values(&again, "a"), values(&plain, "a"));
        assert_eq!(
            &again.whole().expect("memory")[again.body_offset().expect("memory") as usize..],
            body
        );

        let mut removed = plain.clone();
        removed.remove_header("A", None).expect("no fault of ours");
        let again = in_memory(finished(removed));
        assert!(values(&again, "a").is_empty());
        assert_eq!(values(&again, "subject"), values(&plain, "subject"));

        let mut replaced = plain.clone();
        replaced.replace_body(b"new".to_vec()).expect("a good body");
        let again = in_memory(finished(replaced));
        assert_eq!(values(&again, "a"), values(&plain, "a"));
        let whole = again.whole().expect("memory");
        assert_eq!(
            &whole[again.body_offset().expect("memory") as usize..],
            b"new\r\n",
            "{}",
            message.escape_ascii()
        );

        assert_eq!(plain.whole().expect("memory"), message, "the original stays");
    }
}

const LETTER: &str = "Received: one\r\nSubject: hello\r\n world\r\nX-Tag:old\r\nreceived:two\r\n\r\nbody\r\n";

#[test]
fn fields_are_found_by_name_and_read_raw() {
    let content = in_memory(LETTER);
    for (name, expected) in [
        ("RECEIVED", &["one", "two"][..]),
        ("Subject", &["hello\r\n world"]),
        ("x-tag", &["old"]),
        ("Sub", &[]),
        ("", &[]),
    ] {
        assert_eq!(values(&content, name), expected);
    }
    assert_eq!(content.body_offset().expect("memory"), LETTER.len() as u64 - 6);
}

#[test]
fn look_ups_are_bounded() {
    let many = format!("{}\r\n", "A: b\r\n".repeat(VALUES_MAX + 10));
    assert_eq!(in_memory(many).header("a").expect("memory").len(), VALUES_MAX);
    let large = format!("A: {}\r\n", "b".repeat(100 * 1024)).repeat(2) + "\r\n";
    let mut content = in_memory(large);
    assert_eq!(content.header("a").expect("memory").len(), 2);
    content
        .add_header("A", "c".repeat(60 * 1024).as_bytes(), Place::Top)
        .expect("a good field");
    assert_eq!(
        content.header("a").expect("memory").len(),
        2,
        "60 and 100 KiB fit, the last 100 do not"
    );
}

#[test]
fn each_edit_changes_what_it_names() {
    type Edit = fn(&mut Content) -> Result<(), EditError>;
    let cases: &[(&str, Edit, &str)] = &[
        (
            "top",
            |c| c.add_header("X-New", b"1", Place::Top),
            "X-New: 1\r\nReceived: one\r\nSubject: hello\r\n world\r\nX-Tag:old\r\nreceived:two\r\n\r\nbody\r\n",
        ),
        (
            "bottom",
            |c| c.add_header("X-New", b"1", Place::Bottom),
            "Received: one\r\nSubject: hello\r\n world\r\nX-Tag:old\r\nreceived:two\r\nX-New: 1\r\n\r\nbody\r\n",
        ),
        (
            "replace",
            |c| c.replace_header("RECEIVED", 1, b"2"),
            "Received: one\r\nSubject: hello\r\n world\r\nX-Tag:old\r\nreceived: 2\r\n\r\nbody\r\n",
        ),
        (
            "remove one",
            |c| c.remove_header("Received", Some(0)),
            "Subject: hello\r\n world\r\nX-Tag:old\r\nreceived:two\r\n\r\nbody\r\n",
        ),
        (
            "remove all",
            |c| c.remove_header("Received", None),
            "Subject: hello\r\n world\r\nX-Tag:old\r\n\r\nbody\r\n",
        ),
        (
            "remove folded",
            |c| c.remove_header("subject", None),
            "Received: one\r\nX-Tag:old\r\nreceived:two\r\n\r\nbody\r\n",
        ),
        ("remove absent", |c| c.remove_header("X-Absent", None), LETTER),
        (
            "body",
            |c| c.replace_body(b"1\r\n2".to_vec()),
            "Received: one\r\nSubject: hello\r\n world\r\nX-Tag:old\r\nreceived:two\r\n\r\n1\r\n2\r\n",
        ),
        (
            "no body",
            |c| c.replace_body(Vec::new()),
            "Received: one\r\nSubject: hello\r\n world\r\nX-Tag:old\r\nreceived:two\r\n\r\n",
        ),
        (
            "a new field is one like others",
            |c| {
                c.add_header("X-Tag", b"new", Place::Top)?;
                c.replace_header("x-tag", 1, b"second")?;
                c.remove_header("x-tag", Some(0))
            },
            "Received: one\r\nSubject: hello\r\n world\r\nX-Tag: second\r\nreceived:two\r\n\r\nbody\r\n",
        ),
    ];
    for (name, edit, expected) in cases {
        let folder = folder();
        for content in [in_memory(LETTER), in_file(folder.path(), LETTER.as_bytes())] {
            let mut edited = content.clone();
            edit(&mut edited).expect("a good edit");
            assert_eq!(edited.size(), expected.len() as u64, "{name}");
            for offset in 0..=expected.len() {
                let expected = &expected.as_bytes()[offset..(offset + 7).min(expected.len())];
                assert_eq!(
                    edited.read(offset as u64, 7).expect("readable"),
                    expected,
                    "{name}, read at {offset}"
                );
            }
            assert_eq!(edited.original().whole().expect("readable"), LETTER);
            assert_eq!(String::from_utf8_lossy(&finished(edited)), *expected, "{name}");
        }
    }
}

#[test]
fn refused_edits_change_nothing() {
    let mut content = in_memory(LETTER);
    content.add_header("X-First", b"1", Place::Top).expect("a good field");
    let before = content.whole().expect("memory");
    let refused = [
        content.add_header("X Bad", b"1", Place::Top),
        content.add_header("X-Bad", b"1\r\nX-Injected: 2", Place::Bottom),
        content.replace_header("Subject", 1, b"1"),
        content.replace_header("X-Absent", 0, b"1"),
        content.remove_header("Received", Some(2)),
        content.replace_body(b"bare\n".to_vec()),
        content.replace_body(b"bare\r".to_vec()),
    ];
    assert!(refused.iter().all(Result::is_err), "{refused:?}");
    assert_eq!(content.whole().expect("memory"), before);
    let value = vec![b'v'; header::VALUE_BYTES_MAX];
    let fitting = (0..20)
        .take_while(|_| content.add_header("X-Large", &value, Place::Top).is_ok())
        .count();
    assert_eq!(fitting, EDITED_HEADER_BYTES_MAX / header::VALUE_BYTES_MAX - 1);
}

#[test]
fn bodies_are_not_copied() {
    let Body::Memory(bytes) = Body::Memory(Bytes::from(LETTER.repeat(10))) else {
        unreachable!("made here")
    };
    let content = Content::new(Body::Memory(bytes.clone()));
    let (_, Body::Memory(same)) = content.clone().finish(Bytes::new()).expect("memory") else {
        panic!("a body in memory stays there")
    };
    assert_eq!(same.as_ptr(), bytes.as_ptr());
    let mut edited = content.clone();
    edited.remove_header("Received", None).expect("a good edit");
    let (_, Body::Memory(rest)) = edited.finish(Bytes::new()).expect("memory") else {
        panic!("a body in memory stays there")
    };
    let offset = content.body_offset().expect("memory") as usize;
    assert_eq!(rest.as_ptr(), bytes[offset..].as_ptr());
    assert_eq!(content.read(0, 10).expect("memory").as_ptr(), bytes.as_ptr());
}

#[test]
fn a_file_with_fields_on_top_is_left_alone_and_otherwise_written_anew() {
    let folder = folder();
    let large = format!("{LETTER}{}", "0123456789abcde\r\n".repeat(100_000));
    let body_of = |content: &Content| content.source.body.clone();
    let inode = |body: &Body| match body {
        Body::File { path, .. } => std::os::unix::fs::MetadataExt::ino(&path.metadata().expect("there")),
        Body::Memory(_) => 0,
    };

    let mut content = in_file(folder.path(), large.as_bytes());
    let before = inode(&body_of(&content));
    content.add_header("X-Top", b"1", Place::Top).expect("a good field");
    let (head, body) = content.finish(Bytes::from_static(TRACE)).expect("readable");
    assert_eq!((head.len(), inode(&body)), (TRACE.len() + 10, before));

    let mut content = in_file(folder.path(), large.as_bytes());
    content.remove_header("Subject", None).expect("a good edit");
    let unfinished = content.clone();
    assert_eq!(unfinished.original().read(15, 7).expect("readable"), b"Subject"[..]);
    let out = finished(content);
    assert_eq!(out, large.replace("Subject: hello\r\n world\r\n", "").as_bytes());
    assert_eq!(unfinished.original().whole().expect("still open"), large);
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("there").count(),
        1,
        "nothing is left beside it"
    );

    let mut content = in_file(folder.path(), large.as_bytes());
    content.replace_body(b"short".to_vec()).expect("a good body");
    let (_, body) = content.finish(Bytes::new()).expect("readable");
    assert!(matches!(&body, Body::Memory(bytes) if &bytes[..] == b"short\r\n"));
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("there").count(),
        0,
        "the file has no user any more"
    );

    let mut content = in_file(folder.path(), large.as_bytes());
    content
        .replace_body(vec![b'x'; Body::MEMORY_LIMIT])
        .expect("a good body");
    let (_, body) = content.finish(Bytes::new()).expect("readable");
    assert!(matches!(body, Body::File { .. }));
    assert_eq!(bytes_of(&body).len(), Body::MEMORY_LIMIT + 2);
}

#[test]
fn an_endless_header_is_cut() {
    let folder = folder();
    let message = format!("{}\r\nbody\r\n", "X-Many: 0123456789\r\n".repeat(20_000));
    let mut content = in_file(folder.path(), message.as_bytes());
    let offset = content.body_offset().expect("readable") as usize;
    assert!(offset <= HEADER_BYTES_MAX && offset + 40 > HEADER_BYTES_MAX);
    assert_eq!(content.header("X-Many").expect("readable").len(), VALUES_MAX);
    assert!(matches!(
        content.replace_body(Vec::new()),
        Err(EditError::HeaderTooLong)
    ));
    content
        .add_header("X-Bottom", b"1", Place::Bottom)
        .expect("a good field");
    let out = String::from_utf8(finished(content)).expect("ASCII");
    assert_eq!(out.replace("X-Bottom: 1\r\n", ""), message);
}

#[test]
fn a_file_that_went_away_is_an_error() {
    let folder = folder();
    let content = in_file(folder.path(), LETTER.as_bytes());
    std::fs::remove_file(folder.path().join("body")).expect("there");
    assert!(content.header("Subject").is_err());
    assert!(content.body_offset().is_err());
    assert!(content.read(0, 1).is_err());
    assert!(content.clone().replace_body(Vec::new()).is_err());
    assert_eq!(content.size(), LETTER.len() as u64);
}
