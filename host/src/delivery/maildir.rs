//! Delivery into a maildir: a file that is complete and on the disk before it gets its name in `new`.
//!
//! One file a message, with a Delivered-To field for each recipient that the route has for it. A reader of the folder
//! never sees a partial message; a crash leaves at most a file in `tmp`. Every failure is temporary: the mail stays
//! in the queue.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use super::content::Content;
use crate::message::since_epoch;

/// What the delivery puts on top of the message.
pub struct Labels<'a> {
    /// Without brackets; empty is the null sender.
    pub sender: &'a str,
    pub recipients: Vec<&'a str>,
}

/// Puts a message into the maildir at `path`, which is made if it is not there. Durable when it returns; the name
/// that the file got in `new` is returned.
pub async fn deliver(path: &Path, hostname: &str, labels: &Labels<'_>, content: &Content) -> io::Result<String> {
    let [tmp, new, cur] = ["tmp", "new", "cur"].map(|folder| path.join(folder));
    let name = unique_name(hostname);
    let partial = tmp.join(&name);
    let mut file = match create(&partial).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for folder in [&tmp, &new, &cur] {
                fs::create_dir_all(folder).await?;
            }
            create(&partial).await?
        }
        other => other?,
    };
    let written = async {
        file.write_all(header(labels).as_bytes()).await?;
        let mut pieces = content.pieces();
        while let Some(piece) = pieces.next().await? {
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        fs::rename(&partial, new.join(&name)).await?;
        fs::File::open(&new).await?.sync_all().await
    }
    .await;
    if written.is_err() {
        // The first error is the one that counts; a file that stays in tmp is no mail.
        let _ = fs::remove_file(&partial).await;
    }
    written.map(|()| name)
}

async fn create(path: &PathBuf) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .await
}

/// RFC 5321 §4.4 has the Return-Path at the final delivery; the other is what everybody adds.
fn header(labels: &Labels<'_>) -> String {
    let mut header = format!("Return-Path: <{}>\r\n", one_line(labels.sender));
    for recipient in &labels.recipients {
        header.push_str(&format!("Delivered-To: {}\r\n", one_line(recipient)));
    }
    header
}

/// Addresses were parsed when they came in; a field must stay one line even if the record was not ours.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Unique within the machine: time, process, counter, host; no `/` and no `:`, which has a meaning behind the name.
fn unique_name(hostname: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = since_epoch(SystemTime::now());
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let host = hostname.replace('/', "\\057").replace(':', "\\072");
    format!(
        "{}.M{}P{}Q{count}.{host}",
        now.as_secs(),
        now.subsec_micros(),
        std::process::id()
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn a_message_appears_in_new_and_nothing_stays_in_tmp() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a/maildir");
        let content = Content::in_memory(
            Bytes::from_static(b"Received: x\r\n"),
            Bytes::from_static(b"Subject: s\r\n\r\n.b\r\n"),
        );
        let labels = Labels {
            sender: "a@x\r\nEvil: y",
            recipients: vec!["b@y", "c@y"],
        };
        let name = deliver(&path, "host/a:b", &labels, &content)
            .await
            .expect("the folder is writable");
        let written = std::fs::read_to_string(path.join("new").join(&name)).expect("the message");
        assert_eq!(
            written,
            "Return-Path: <a@xEvil: y>\r\nDelivered-To: b@y\r\nDelivered-To: c@y\r\n\
             Received: x\r\nSubject: s\r\n\r\n.b\r\n"
        );
        assert!(!name.contains(['/', ':']));
        assert_eq!(std::fs::read_dir(path.join("tmp")).expect("tmp").count(), 0);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "").expect("a file");
        let labels = Labels {
            sender: "",
            recipients: vec!["b@y"],
        };
        let content = Content::in_memory(Bytes::new(), Bytes::new());
        assert!(deliver(&path, "host", &labels, &content).await.is_err());
    }
}
