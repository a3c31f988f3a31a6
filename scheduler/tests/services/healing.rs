//! R21: a Redis or a PostgreSQL that came back from an earlier time, and single jobs that Redis lost.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::sync::Notify;
use windrow_devserver::{RedisOptions, RedisServer, Reply as Answer};
use windrow_queue::{
    Due, Member, NewJob, QueueName, journal,
    store::{self, Applied, Finish, Reply, Session, SessionId, Store},
};
use windrow_scheduler::{
    metrics::Metrics,
    reconciler::{self, Reconciler},
    service::{Done, Pace, Service},
    watch::Watch,
};

use crate::{
    support::{count, database, database_url, enqueue, job, queue, redis, until},
    tidying::relay_all,
};

/// A Redis of the test's own, which may be wiped and set back without a restart.
async fn server() -> (RedisServer, Store) {
    let settings = vec![("enable-debug-command".to_owned(), "yes".to_owned())];
    let options = RedisOptions { settings, ..RedisOptions::default() };
    let server = tokio::task::spawn_blocking(|| RedisServer::start(options).unwrap()).await.unwrap();
    let store = Store::new(&store::Config { url: server.url(), ..store::Config::default() }).unwrap();
    (server, store)
}

/// One scheduler, as far as it watches and heals.
struct Scheduler {
    pool: PgPool,
    metrics: Metrics,
    queues: Vec<QueueName>,
    watch: Watch,
    reconciler: Reconciler,
}

fn scheduler(pool: &PgPool, store: &Store, queues: &[&QueueName]) -> Scheduler {
    let config = reconciler::Config { period: Duration::ZERO, ..reconciler::Config::default() };
    let queues: Vec<QueueName> = queues.iter().map(|queue| (*queue).clone()).collect();
    let (found, metrics) = (Arc::new(Notify::new()), Metrics::new(&prometheus::Registry::new()));
    let (pool, store) = (pool.clone(), store.clone());
    Scheduler {
        watch: Watch::new(pool.clone(), store.clone(), queues.clone(), metrics.clone(), Arc::clone(&found)),
        reconciler: Reconciler::new(config, pool.clone(), store, queues.clone(), metrics.clone(), found),
        queues,
        pool,
        metrics,
    }
}

impl Scheduler {
    /// A second goes by, and it looks. How many queues were found.
    async fn look(&mut self) -> Done {
        let second =
            "UPDATE redis_watch SET beat_at = beat_at - interval '1 s', heal_until = heal_until - interval '1 s'";
        sqlx::query(second).execute(&self.pool).await.unwrap();
        self.watch.run_once().await.unwrap()
    }

    /// Heals what was found, and sweeps once. How many jobs it put back.
    async fn heal(&mut self) -> u64 {
        let mut put_back = 0;
        loop {
            let done = self.reconciler.run_once().await.unwrap();
            put_back += done.count("put back");
            if done.pace != Pace::Again {
                return put_back;
            }
        }
    }

    /// Looks and heals. What was found, and how many jobs were put back.
    async fn look_and_heal(&mut self) -> (u64, u64) {
        (self.look().await.count("found"), self.heal().await)
    }

    /// Everything is known, and nothing is amiss.
    async fn settle(&mut self) {
        while self.look_and_heal().await.0 > 0 || self.is_new().await {}
    }

    /// The lease of the pass under way holds, however slow this machine is.
    async fn hold(&self) {
        let held = "UPDATE redis_watch SET heal_until = now() + interval '50 s' WHERE heal IS NOT NULL";
        sqlx::query(held).execute(&self.pool).await.unwrap();
    }

    async fn is_new(&self) -> bool {
        count(&self.pool, "SELECT count(*) FROM redis_watch WHERE epoch IS NOT NULL AND found IS NULL").await
            < i64::try_from(self.queues.len()).unwrap()
    }

    fn counted(&self, queue: &QueueName, what: &str) -> u64 {
        self.metrics.redis_found.with_label_values(&[queue.as_str(), what]).get()
    }
}

fn field(server: &RedisServer, queue: &QueueName, name: &str) -> Option<String> {
    match server.command(&["HGET", &format!("windrow:{{{queue}}}:meta"), name]).unwrap() {
        Answer::Nil => None,
        answer => Some(answer.text()),
    }
}

async fn epoch(pool: &PgPool, queue: &QueueName) -> String {
    sqlx::query_scalar("SELECT epoch::text FROM redis_watch WHERE queue = $1")
        .bind(queue.as_str())
        .fetch_one(pool)
        .await
        .unwrap()
}

/// A worker claims all that is ready, and tells Redis of the one that it completed; the rest it gives back.
async fn tell_completed(store: &Store, queue: &QueueName, completed: impl Fn(Member) -> bool) -> Member {
    let id = SessionId::from_random(rand::random());
    let session = Session::open(store, queue, id, 10, "test").await.unwrap();
    let Reply::Ok(reply) = session.finish_claim(1, 0, 10, 1 << 20, true, &[]).await.unwrap() else { panic!() };
    let done = reply.claims.iter().map(|claim| claim.member).find(|member| completed(*member)).unwrap();
    let outcomes: Vec<Applied> = reply
        .claims
        .iter()
        .map(|claim| {
            let finish = if claim.member == done { Finish::Complete { keep: None } } else { Finish::Release };
            Applied { member: claim.member, claim_no: claim.claim_no, finish }
        })
        .collect();
    session.finish_claim(2, 1, 0, 0, true, &outcomes).await.unwrap();
    assert!(session.bye().await.unwrap());
    done
}

/// The same, and it did complete it.
async fn complete_one(pool: &PgPool, store: &Store, queue: &QueueName) -> Member {
    let member = tell_completed(store, queue, |_| true).await;
    assert_eq!(journal::complete(pool, &[(member.id, member.generation.unwrap())]).await.unwrap().len(), 1);
    member
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_gets_back_what_the_journal_holds_and_a_new_epoch() {
    let (pool, queue, (server, store)) = (database().await, queue(), server().await);
    let mut scheduler = scheduler(&pool, &store, &[&queue]);
    scheduler.settle().await;
    let mut jobs: Vec<_> = (0..1200).map(|_| job(&queue)).collect();
    jobs.push(job(&queue).due(Due::In(Duration::from_secs(3600))));
    enqueue(&pool, &jobs).await;
    relay_all(&pool, &store).await;
    for _ in 0..3 {
        assert_eq!(scheduler.look_and_heal().await, (0, 0), "all is well");
    }
    let before = epoch(&pool, &queue).await;
    assert_eq!(field(&server, &queue, "epoch").as_ref(), Some(&before));

    server.command(&["FLUSHALL"]).unwrap();
    assert_eq!(scheduler.look_and_heal().await, (1, 1201));
    assert_eq!(scheduler.counted(&queue, "wiped"), 1);
    let counts = store.counts(&queue).await.unwrap();
    assert_eq!((counts.ready, counts.scheduled), (1200, 1), "nothing went through the outbox");
    let after = epoch(&pool, &queue).await;
    assert!(after != before && field(&server, &queue, "epoch") == Some(after));
    assert_eq!(scheduler.look_and_heal().await, (0, 0), "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_are_put_back_in_seconds() {
    let jobs = if std::env::var_os("WINDROW_TEST_ALL").is_some() { 100_000 } else { 20_000 };
    let (pool, queue, (server, store)) = (database().await, queue(), server().await);
    let mut scheduler = scheduler(&pool, &store, &[&queue]);
    scheduler.settle().await;
    // Relayed before the wipe, and with another queue's rows between them.
    sqlx::query(
        "INSERT INTO job_journal (id, kind, queue, args)
         SELECT gen_random_uuid(), 'test.ping', CASE n % 2 WHEN 0 THEN $1 ELSE 'other' END, '{}' FROM generate_series(1, 2 * $2) n",
    )
    .bind(queue.as_str())
    .bind(jobs)
    .execute(&pool)
    .await
    .unwrap();
    server.command(&["FLUSHALL"]).unwrap();
    let began = tokio::time::Instant::now();
    let healed = scheduler.look_and_heal().await;
    println!("{healed:?} put back in {:?}", began.elapsed());
    assert_eq!(healed, (1, u64::try_from(jobs).unwrap()));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(store.counts(&queue).await.unwrap().ready, u64::try_from(jobs).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_came_back_older_is_found_by_its_beat() {
    let (pool, queue, (server, store)) = (database().await, queue(), server().await);
    let mut scheduler = scheduler(&pool, &store, &[&queue]);
    scheduler.settle().await;
    enqueue(&pool, &[job(&queue), job(&queue)]).await;
    relay_all(&pool, &store).await;
    server.command(&["SAVE"]).unwrap();
    let done = complete_one(&pool, &store, &queue).await;
    let young = job(&queue);
    enqueue(&pool, std::slice::from_ref(&young)).await;
    relay_all(&pool, &store).await;
    assert_eq!(scheduler.look_and_heal().await, (0, 0));

    // The same process, so the same run_id.
    server.command(&["DEBUG", "RELOAD", "NOSAVE"]).unwrap();
    assert!(store.status(&queue, Member::journaled(young.id, 1)).await.unwrap().is_none());
    assert!(store.status(&queue, done).await.unwrap().is_some(), "a ghost, which the row check keeps from running");
    assert_eq!(scheduler.look_and_heal().await, (1, 1));
    assert_eq!(scheduler.counted(&queue, "rolled_back"), 1);
    assert!(store.status(&queue, Member::journaled(young.id, 1)).await.unwrap().is_some());
    assert_eq!(scheduler.look_and_heal().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_redis_is_asked_for_everything_although_its_beat_is_right() {
    let (pool, queue) = (database().await, queue());
    let options = RedisOptions { aof: true, ..RedisOptions::default() };
    let server = tokio::task::spawn_blocking(|| RedisServer::start(options).unwrap()).await.unwrap();
    let store = Store::new(&store::Config { url: server.url(), ..store::Config::default() }).unwrap();
    let mut scheduler = scheduler(&pool, &store, &[&queue]);
    scheduler.settle().await;
    let lost = job(&queue);
    enqueue(&pool, std::slice::from_ref(&lost)).await;
    sqlx::query("DELETE FROM job_outbox").execute(&pool).await.unwrap();
    assert_eq!(scheduler.look_and_heal().await, (0, 0));
    let server = tokio::task::spawn_blocking(move || {
        server.restart().unwrap();
        server
    });
    let server = server.await.unwrap();
    until("Redis answers", async || store.ping().await.is_ok()).await;
    assert_eq!(scheduler.look_and_heal().await, (1, 1));
    assert_eq!(scheduler.counted(&queue, "restarted"), 1);
    assert_eq!(scheduler.look_and_heal().await, (0, 0));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_came_back_older_is_found_by_the_beat_of_redis() {
    let (url, queue, (_server, store)) = (database_url().await, queue(), server().await);
    let pool = PgPool::connect(&url).await.unwrap();
    let mut first = scheduler(&pool, &store, &[&queue]);
    first.settle().await;
    enqueue(&pool, &[job(&queue), job(&queue)]).await;
    relay_all(&pool, &store).await;
    // A backup is taken.
    pool.close().await;
    let name = url.rsplit('/').next().unwrap().to_owned();
    let backup = move || windrow_devserver::fresh_database_from(&name).unwrap();
    let backup = tokio::task::spawn_blocking(backup).await.unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    let done = complete_one(&pool, &store, &queue).await;
    let later = Due::In(Duration::from_secs(3600));
    let (unknown, waits) = (job(&queue), job(&queue).due(later));
    enqueue(&pool, &[unknown.clone(), waits.clone()]).await;
    relay_all(&pool, &store).await;
    let mut first = scheduler(&pool, &store, &[&queue]);
    for _ in 0..3 {
        assert_eq!(first.look_and_heal().await, (0, 0));
    }

    // And put back: the job that completed has to happen again, two were never enqueued.
    let restored = PgPool::connect(&backup).await.unwrap();
    let mut second = scheduler(&restored, &store, &[&queue]);
    assert_eq!(second.look_and_heal().await, (1, 1));
    assert_eq!(second.counted(&queue, "postgres_behind"), 1);
    assert!(store.status(&queue, done).await.unwrap().is_some());
    let of = |job: &NewJob| Member::journaled(job.id, 1);
    assert!(store.status(&queue, of(&waits)).await.unwrap().is_none(), "it would have stood there for an hour");
    assert!(store.status(&queue, of(&unknown)).await.unwrap().is_some(), "the row check finds this one");
    assert!(journal::start_check(&restored, &[of(&unknown)]).await.unwrap().is_empty());

    // A worker that stood still tells Redis only now that it completed a job, which it did before the backup was put back.
    assert_eq!(second.look_and_heal().await, (0, 0));
    tell_completed(&store, &queue, |member| member == done).await;
    assert_eq!(second.look_and_heal().await, (0, 0), "its time has not come");
    let lease = "UPDATE redis_watch SET again_at = again_at - interval '12 s'";
    sqlx::query(lease).execute(&restored).await.unwrap();
    assert_eq!(second.look_and_heal().await, (1, 1));
    assert_eq!(second.look_and_heal().await, (0, 0), "once");
    assert_eq!(second.counted(&queue, "postgres_behind"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn schedulers_that_race_find_nothing_that_is_not_there_and_what_is_there_once() {
    let (pool, queue, (server, store)) = (database().await, queue(), server().await);
    let mut all: Vec<Scheduler> = (0..4).map(|_| scheduler(&pool, &store, &[&queue])).collect();
    all[0].settle().await;
    enqueue(&pool, &(0..50).map(|_| job(&queue)).collect::<Vec<_>>()).await;
    relay_all(&pool, &store).await;
    // Each at its own pace: what one has read is several beats old when it comes to judge by it.
    let looks = futures::future::join_all(all.iter_mut().map(async |scheduler| {
        let mut found = 0;
        for _ in 0..50 {
            found += scheduler.look().await.count("found");
        }
        found
    }));
    assert_eq!(looks.await, [0; 4]);
    let beat: i64 = count(&pool, "SELECT beat FROM redis_watch").await;
    assert!(beat >= 50, "{beat}");
    let in_redis: i64 = field(&server, &queue, "beat").unwrap().parse().unwrap();
    assert!((beat..=beat + 1).contains(&in_redis), "{in_redis} in Redis, {beat} in Postgres");

    server.command(&["FLUSHALL"]).unwrap();
    let looks = futures::future::join_all(all.iter_mut().map(Scheduler::look)).await;
    assert_eq!(looks.iter().map(|done| done.count("found")).sum::<u64>(), 1);
    let healed = futures::future::join_all(all.iter_mut().map(Scheduler::heal)).await;
    assert_eq!(healed.iter().sum::<u64>(), 50, "{healed:?}");
    assert_eq!(field(&server, &queue, "epoch"), Some(epoch(&pool, &queue).await));
    for scheduler in &mut all {
        assert_eq!(scheduler.look_and_heal().await, (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_dies_is_taken_over_and_one_that_wakes_up_changes_nothing() {
    let (pool, queue, (server, store)) = (database().await, queue(), server().await);
    let (mut first, mut second) = (scheduler(&pool, &store, &[&queue]), scheduler(&pool, &store, &[&queue]));
    first.settle().await;
    enqueue(&pool, &(0..20).map(|_| job(&queue)).collect::<Vec<_>>()).await;
    relay_all(&pool, &store).await;
    server.command(&["FLUSHALL"]).unwrap();
    assert_eq!(first.look().await.count("found"), 1);
    assert_eq!(first.reconciler.run_once().await.unwrap().count("put back"), 20);
    // It stands still here, before the end.
    first.hold().await;
    assert_eq!(second.look_and_heal().await, (0, 0));
    assert_eq!(field(&server, &queue, "epoch"), None, "somebody is at it");
    let silent = "UPDATE redis_watch SET heal_until = now() - interval '1 ms'";
    sqlx::query(silent).execute(&pool).await.unwrap();
    assert_eq!(second.heal().await, 0, "all of it is there already");
    let healed = epoch(&pool, &queue).await;
    assert_eq!(field(&server, &queue, "epoch").as_ref(), Some(&healed));
    first.heal().await;
    assert_eq!(epoch(&pool, &queue).await, healed);
    assert_eq!(field(&server, &queue, "epoch").as_ref(), Some(&healed));
    assert_eq!(second.look_and_heal().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_was_taken_over_is_not_ended_by_the_first() {
    let (pool, queue, (server, store)) = (database().await, queue(), server().await);
    let mut scheduler = scheduler(&pool, &store, &[&queue]);
    scheduler.settle().await;
    let before = epoch(&pool, &queue).await;
    server.command(&["FLUSHALL"]).unwrap();
    assert_eq!(scheduler.look().await.count("found"), 1);
    assert!(scheduler.reconciler.run_once().await.unwrap().is_empty());
    // By one that has not told Redis yet.
    let taken = "UPDATE redis_watch SET heal = gen_random_uuid(), heal_until = now() + interval '50 s'";
    sqlx::query(taken).execute(&pool).await.unwrap();
    scheduler.heal().await;
    assert_eq!(epoch(&pool, &queue).await, before);
    assert_eq!(count(&pool, "SELECT count(*) FROM redis_watch WHERE found = 'wiped'").await, 1, "it still stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_wiped_again_meanwhile_is_healed_again() {
    let (pool, queue, (server, store)) = (database().await, queue(), server().await);
    let mut scheduler = scheduler(&pool, &store, &[&queue]);
    scheduler.settle().await;
    enqueue(&pool, &(0..20).map(|_| job(&queue)).collect::<Vec<_>>()).await;
    relay_all(&pool, &store).await;
    server.command(&["FLUSHALL"]).unwrap();
    assert_eq!(scheduler.look().await.count("found"), 1);
    assert_eq!(scheduler.reconciler.run_once().await.unwrap().count("put back"), 20);
    server.command(&["FLUSHALL"]).unwrap();
    scheduler.hold().await;
    assert!(scheduler.reconciler.run_once().await.unwrap().is_empty());
    assert_eq!(field(&server, &queue, "epoch"), None, "that pass is worth nothing");
    assert_eq!(scheduler.look_and_heal().await, (0, 20), "what was found still stands");
    assert_eq!(store.counts(&queue).await.unwrap().ready, 20);
    assert_eq!(scheduler.look_and_heal().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_meanwhile_is_asked_for_everything_again() {
    let (pool, queue) = (database().await, queue());
    let options = RedisOptions { aof: true, ..RedisOptions::default() };
    let server = tokio::task::spawn_blocking(|| RedisServer::start(options).unwrap()).await.unwrap();
    let store = Store::new(&store::Config { url: server.url(), ..store::Config::default() }).unwrap();
    let mut scheduler = scheduler(&pool, &store, &[&queue]);
    assert_eq!(scheduler.look().await.count("found"), 0, "the row is made");
    assert_eq!(scheduler.look().await.count("found"), 1);
    assert!(scheduler.reconciler.run_once().await.unwrap().is_empty());
    scheduler.hold().await;
    // With all of its data but perhaps the last second's, among it the mark of the pass.
    let server = tokio::task::spawn_blocking(move || {
        server.restart().unwrap();
        server
    });
    let server = server.await.unwrap();
    until("Redis answers", async || store.ping().await.is_ok()).await;
    scheduler.heal().await;
    assert_eq!(field(&server, &queue, "epoch"), Some(epoch(&pool, &queue).await));
    assert_eq!(scheduler.look_and_heal().await.0, 1);
    assert_eq!(scheduler.counted(&queue, "restarted"), 1);
    assert_eq!(scheduler.look_and_heal().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_schedulers_watch_a_beat_is_raised_about_once_a_second() {
    let (pool, queue, (server, store)) = (database().await, queue(), server().await);
    let mut all: Vec<Scheduler> = (0..3).map(|_| scheduler(&pool, &store, &[&queue])).collect();
    all[0].settle().await;
    let beats = async || count(&pool, "SELECT beat FROM redis_watch").await;
    let (began, before) = (tokio::time::Instant::now(), beats().await);
    let looks = all.iter_mut().map(async |scheduler| {
        while began.elapsed() < Duration::from_secs(3) {
            assert!(scheduler.watch.run_once().await.unwrap().is_empty());
        }
    });
    futures::future::join_all(looks).await;
    let most = began.elapsed().as_millis() / 800 + 1;
    let raised = beats().await - before;
    assert!(raised >= 2 && u128::try_from(raised).unwrap() <= most, "{raised} of {most}");
    let in_redis: i64 = field(&server, &queue, "beat").unwrap().parse().unwrap();
    assert_eq!(in_redis, beats().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_fails_does_not_hold_up_the_others() {
    let (pool, (server, store)) = (database().await, server().await);
    let (sick, well) = (queue(), queue());
    let mut scheduler = scheduler(&pool, &store, &[&sick, &well]);
    scheduler.settle().await;
    enqueue(&pool, &[job(&sick), job(&well), job(&sick), job(&well)]).await;
    relay_all(&pool, &store).await;
    let spoil = |key: &str| server.command(&["SET", &format!("windrow:{{{sick}}}:{key}"), "not ours"]).unwrap();
    let mend = |key: &str| server.command(&["DEL", &format!("windrow:{{{sick}}}:{key}")]).unwrap();

    // It cannot be looked at.
    server.command(&["FLUSHALL"]).unwrap();
    spoil("meta");
    let look = scheduler.look().await;
    assert_eq!(look.count("found"), 1);
    assert!(look.degraded.unwrap().contains(sick.as_str()));
    assert_eq!(scheduler.heal().await, 2);
    assert_eq!(scheduler.counted(&well, "wiped"), 1);
    assert_eq!(store.counts(&well).await.unwrap().ready, 2);
    mend("meta");

    // It is found, and cannot be healed.
    server.command(&["FLUSHALL"]).unwrap();
    spoil("jobs");
    assert_eq!(scheduler.look().await.count("found"), 2);
    assert_eq!(scheduler.heal().await, 2);
    assert_eq!(field(&server, &well, "epoch"), Some(epoch(&pool, &well).await));
    assert_eq!(field(&server, &sick, "epoch"), None);

    // A single lost job of the other queue is found beside it.
    sqlx::query("UPDATE job_journal SET run_at = now() - interval '2 min', enqueued_at = now() - interval '2 min'")
        .execute(&pool)
        .await
        .unwrap();
    let (id,): (uuid::Uuid,) = sqlx::query_as("SELECT id FROM job_journal WHERE queue = $1 ORDER BY id LIMIT 1")
        .bind(well.as_str())
        .fetch_one(&pool)
        .await
        .unwrap();
    let lost = Member::journaled(windrow_queue::JobId(id), 1);
    assert_eq!(store.cancel(&well, &[lost]).await.unwrap(), [store::Cancelled::Done]);
    assert_eq!(scheduler.heal().await, 1);
    assert!(scheduler.reconciler.run_once().await.unwrap().degraded.unwrap().contains(sick.as_str()));
    mend("jobs");
    until("the sick one is healed", async || {
        scheduler.look_and_heal().await;
        field(&server, &sick, "epoch").is_some()
    })
    .await;
    assert_eq!(store.counts(&sick).await.unwrap().ready, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn journaled_jobs_that_redis_lost_are_put_back_and_those_it_has_are_not() {
    let (pool, store, queue) = (database().await, redis().await, queue());
    let (kept, lost, waiting) = (job(&queue), job(&queue), job(&queue));
    let mut scheduler = scheduler(&pool, &store, &[&queue]);
    scheduler.settle().await;
    enqueue(&pool, std::slice::from_ref(&kept)).await;
    relay_all(&pool, &store).await;
    enqueue(&pool, std::slice::from_ref(&lost)).await;
    sqlx::query("DELETE FROM job_outbox").execute(&pool).await.unwrap();
    enqueue(&pool, std::slice::from_ref(&waiting)).await;

    assert_eq!(scheduler.heal().await, 0, "none is due for long");
    sqlx::query("UPDATE job_journal SET run_at = now() - interval '2 min', enqueued_at = now() - interval '2 min'")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(scheduler.heal().await, 1);
    assert_eq!(scheduler.heal().await, 0, "it is on its way now");
    relay_all(&pool, &store).await;
    assert_eq!(store.counts(&queue).await.unwrap().ready, 3);
    assert!(store.status(&queue, Member::journaled(lost.id, 1)).await.unwrap().is_some());
}
