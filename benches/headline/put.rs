//! Durable writes of 1 KiB over 64 shards, against bare sled which does batch, flush and `sync_data` with one committer per
//! core over as many databases.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anchorhold::{Connection, Credential};

use crate::world::{PER_SHARD, World, connection, figure, per_second, rounds};

const TASKS: usize = 256;
const SHARDS: usize = 64;
const ROUND: Duration = Duration::from_secs(3);
/// Bytes of a row beside the credential: what sealing, facts, head and audit entry add.
const ROW: usize = 1024;
/// The rule that keeps sled from its deadlock: not more than this between two flushes.
const GROUP_BYTES: usize = 128 * 1024;

pub fn against_sled() {
    let world = World::new().expect("a vault for the benchmark");
    // One account of each of 64 shards, and 192 more spread over them.
    let accounts = world.accounts(SHARDS * PER_SHARD).expect("accounts for the benchmark");
    let connections: Vec<Connection> = world.runtime.block_on(async {
        let mut connections = Vec::new();
        for task in 0..TASKS {
            let account = &accounts[(task % SHARDS) * PER_SHARD + task / SHARDS];
            connections.push(account.add_connection(connection(ROW).expect("a connection")).await.expect("an added connection"));
        }
        connections
    });
    let connections = Arc::new(connections);
    let ours = || {
        let connections = Arc::clone(&connections);
        per_second(&world.runtime, TASKS, ROUND, move |task, _| {
            let connection = connections[task].clone();
            async move {
                connection.replace_credential(Credential::api_key("k".repeat(ROW).into())).await.expect("a durable write");
            }
        })
    };
    let rival = BareSled::new();
    let theirs = || {
        let rival = Arc::clone(&rival);
        per_second(&world.runtime, TASKS, ROUND, move |task, _| {
            let rival = Arc::clone(&rival);
            async move { rival.put(task % SHARDS, task).await }
        })
    };
    let (ours, theirs) = rounds(ours, theirs);
    figure("put_1k_per_second", ours, "1/s");
    figure("bare_sled_put_1k_per_second", theirs, "1/s");
    figure("put_1k_vs_sled", ours / theirs, "times");
}

type Waiting = VecDeque<(usize, tokio::sync::oneshot::Sender<()>)>;

/// Bare sled with group commit: two committers, each takes one database at a time.
struct BareSled {
    queues: Mutex<(Vec<Waiting>, VecDeque<usize>)>,
    work: Condvar,
    databases: Vec<(sled::Db, File)>,
    _directory: tempfile::TempDir,
}

impl BareSled {
    fn new() -> Arc<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let databases = (0..SHARDS)
            .map(|shard| {
                let path = directory.path().join(shard.to_string());
                let db =
                    sled::Config::new().path(&path).segment_size(512 * 1024).flush_every_ms(None).open().expect("a database");
                (db, File::open(path.join("db")).expect("the database's file"))
            })
            .collect();
        let queues = Mutex::new(((0..SHARDS).map(|_| Waiting::new()).collect(), VecDeque::new()));
        let this = Arc::new(Self { queues, work: Condvar::new(), databases, _directory: directory });
        for _ in 0..2 {
            let this = Arc::clone(&this);
            // Ends with the process.
            std::thread::spawn(move || this.commit_for_ever());
        }
        this
    }

    async fn put(&self, shard: usize, key: usize) {
        let (done, durable) = tokio::sync::oneshot::channel();
        {
            let mut queues = self.queues.lock().expect("the queues");
            let idle = queues.0[shard].is_empty();
            queues.0[shard].push_back((key, done));
            if idle {
                queues.1.push_back(shard);
                self.work.notify_one();
            }
        }
        durable.await.expect("a committer");
    }

    fn commit_for_ever(&self) {
        loop {
            let (shard, group) = {
                let mut queues = self.queues.lock().expect("the queues");
                while queues.1.is_empty() {
                    queues = self.work.wait(queues).expect("the queues");
                }
                let shard = queues.1.pop_front().expect("it is not empty");
                let most = queues.0[shard].len().min(GROUP_BYTES / ROW);
                let group: Vec<_> = queues.0[shard].drain(..most).collect();
                if !queues.0[shard].is_empty() {
                    queues.1.push_back(shard);
                    self.work.notify_one();
                }
                (shard, group)
            };
            let (db, file) = &self.databases[shard];
            for (key, _) in &group {
                let mut batch = sled::Batch::default();
                batch.insert(&(*key as u64).to_be_bytes(), vec![7; ROW]);
                db.apply_batch(batch).expect("a batch");
            }
            db.flush().expect("a flush");
            file.sync_data().expect("a sync");
            for (_, done) in group {
                // Whoever waited may have given up.
                let _ = done.send(());
            }
        }
    }
}
