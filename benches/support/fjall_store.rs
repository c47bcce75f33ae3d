//! The queue over `fjall`, to compare the spool's own log with: the same appends, settles and group commit by one
//! thread, over a general key-value store. It lacks what the comparison does not need: limits, large bodies as files,
//! recovery from a failed disk.

use std::path::Path;
use std::sync::mpsc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use gatepost::message::{Body, Id, NewMessage, QueueState};
use tokio::sync::oneshot;

/// Jobs that wait for the commit thread at once, as in the spool.
const QUEUE: usize = 1024;

type Done = oneshot::Sender<Result<(), String>>;

enum Job {
    Append {
        id: Id,
        state: Vec<u8>,
        content: Vec<u8>,
        done: Done,
    },
    Remove {
        id: Id,
    },
}

/// A handle; the commit thread ends with it.
pub struct FjallStore {
    jobs: mpsc::SyncSender<Job>,
}

impl FjallStore {
    pub fn open(dir: &Path) -> Result<FjallStore, String> {
        let text = |error: fjall::Error| error.to_string();
        let database = Database::builder(dir).open().map_err(text)?;
        let states = database
            .keyspace("states", KeyspaceCreateOptions::default)
            .map_err(text)?;
        let separated = || KeyspaceCreateOptions::default().with_kv_separation(Some(KvSeparationOptions::default()));
        let contents = database.keyspace("contents", separated).map_err(text)?;
        let (jobs, queued) = mpsc::sync_channel(QUEUE);
        std::thread::spawn(move || commit(&database, &states, &contents, &queued));
        Ok(FjallStore { jobs })
    }

    pub async fn append(&self, message: NewMessage) -> Result<(), String> {
        let NewMessage {
            id,
            envelope,
            head,
            body,
            origin,
            held,
        } = message;
        let Body::Memory(body) = body else {
            return Err("small bodies only".into());
        };
        let state = QueueState {
            envelope,
            origin,
            size: (head.len() + body.len()) as u64,
            held,
            attempts: 0,
            next_attempt: None,
            last_error: None,
            delay_notified: false,
        };
        let state = serde_json::to_vec(&state).map_err(|error| error.to_string())?;
        let (done, committed) = oneshot::channel();
        let job = Job::Append {
            id,
            state,
            content: [&head[..], &body].concat(),
            done,
        };
        self.jobs.try_send(job).map_err(|error| error.to_string())?;
        committed.await.map_err(|error| error.to_string())?
    }

    pub fn remove(&self, id: Id) {
        // The receiver goes only when the store is closed.
        let _ = self.jobs.send(Job::Remove { id });
    }
}

fn commit(database: &Database, states: &Keyspace, contents: &Keyspace, queued: &mpsc::Receiver<Job>) {
    while let Ok(first) = queued.recv() {
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        let mut waiting = Vec::new();
        for job in std::iter::once(first).chain(queued.try_iter().take(QUEUE)) {
            match job {
                Job::Append {
                    id,
                    state,
                    content,
                    done,
                } => {
                    batch.insert(states, id.0.to_be_bytes(), state);
                    batch.insert(contents, id.0.to_be_bytes(), content);
                    waiting.push(done);
                }
                Job::Remove { id } => {
                    batch.remove(states, id.0.to_be_bytes());
                    batch.remove(contents, id.0.to_be_bytes());
                }
            }
        }
        let committed = batch.commit().map_err(|error| error.to_string());
        for done in waiting {
            let _ = done.send(committed.clone());
        }
    }
}
