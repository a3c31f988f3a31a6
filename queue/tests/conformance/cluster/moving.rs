//! A slot that moves from node to node, with the queue that is in it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use windrow_devserver::{ClusterOptions, RedisServer};
use windrow_queue::{
    JobId, Member, NewJob,
    store::{Applied, Claim, Layout, Store, StoreError, Verdict},
};

use super::{cluster, config, queue_on, rig, slot};
use crate::support::*;

fn is_try_again(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(source) if source.code() == Some("TRYAGAIN"))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_slot_moves_every_script_is_refused_before_it_begins() {
    let cluster = cluster(ClusterOptions::default()).await;
    let (from, to) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    let (store, queue) = (Store::new(&config(&cluster)).unwrap(), queue_on(&cluster, from));
    let slot = slot(&cluster, &queue);
    let source = rig(&store, &queue, from).await;
    source.put_many(10).await;
    let mut worker = Worker::open(&store, &queue).await;
    let held = worker.claim(2).await;

    // The worst case: every key that a script declares is still at the source, and only the lane is not, which the script
    // finds by itself. `never` is declared too, and nowhere.
    let fixed = "meta jobs mut err act sched sess uq dead deadrec tobury suspect wake ring:0 ring:1 ring:2 ring:3 use lim tat \
                 due cancel parked tok cb ckpt prog tl fin";
    let mut made = Vec::new();
    for name in fixed.split(' ') {
        let key = source.key(name);
        if source.raw::<bool>(redis::cmd("SET").arg(&key).arg("").arg("NX")).await {
            made.push(key);
        }
    }
    cluster.begin_move(slot, from, to).unwrap();
    let lanes: Vec<Vec<u8>> = source.raw(redis::cmd("KEYS").arg(source.key("l:*"))).await;
    assert_eq!(lanes.len(), 1);
    let password = to.url().split(['@', ':']).nth(2).unwrap().to_owned();
    let mut migrate = redis::cmd("MIGRATE");
    migrate.arg("127.0.0.1").arg(to.port()).arg("").arg(0).arg(5000).arg("AUTH").arg(password);
    source.raw::<String>(migrate.arg("KEYS").arg(&lanes)).await;

    let before: HashMap<Vec<u8>, Vec<u8>> = dump(&source).await;
    let finish: Vec<Applied> = held.iter().map(|claim| outcome(claim, complete())).collect();
    let n = worker.next_n();
    let refused = worker.session.finish_claim(n, worker.prev_n, 5, PLENTY, true, &finish).await.unwrap_err();
    assert!(is_try_again(&refused), "{refused}");
    let n = worker.next_n();
    let refused = worker.session.sync(n, &[], &finish).await.unwrap_err();
    assert!(is_try_again(&refused), "{refused}");
    assert!(is_try_again(&worker.session.heartbeat().await.unwrap_err()));
    assert!(is_try_again(&store.tick(&queue).await.unwrap_err()));
    assert!(is_try_again(&store.counts(&queue).await.unwrap_err()));
    assert!(is_try_again(&store.enqueue(&[source.job(1)]).await.unwrap_err()), "no try of it was served");
    assert!(is_try_again(&store.discard(&queue, &[JobId::new()]).await.unwrap_err()));
    assert_eq!(dump(&source).await, before, "nothing was half done");
    let Layout::Cluster { queues, .. } = store.layout(std::slice::from_ref(&queue)).await.unwrap() else { panic!() };
    assert!(queues[0].moving);

    // Half of it moved: at the target, with ASKING, as a client that follows ASK would have it, the answer is the same.
    tokio::task::block_in_place(|| cluster.move_keys(slot, from, to, 8).unwrap());
    assert!(is_try_again(&store.counts(&queue).await.unwrap_err()));
    let target = rig(&store, &queue, to).await;
    let mut pipe = redis::pipe();
    let names = fixed.split(' ').chain(["never"]).map(|name| source.key(name));
    let count = fixed.split(' ').count() + 1;
    pipe.cmd("ASKING").ignore();
    let eval = pipe.cmd("EVAL").arg("#!lua\nreturn redis.call('SET', KEYS[1], 'x')").arg(count);
    for name in names {
        eval.arg(name);
    }
    let error = target.try_pipe::<Vec<String>>(&pipe).await.unwrap_err();
    assert!(error.to_string().contains("TRYAGAIN") || error.code() == Some("TRYAGAIN"), "{error}");

    tokio::task::block_in_place(|| {
        while cluster.move_keys(slot, from, to, 1000).unwrap() > 0 {}
        // Nothing of it is left at the source, and the slot is still its own: it answers ASK, which is a wait as well.
        assert!(cluster.owner(slot).unwrap().port() == from.port());
    });
    let asked = store.counts(&queue).await.unwrap_err();
    assert!(matches!(&asked, StoreError::Unavailable(source) if source.code() == Some("ASK")), "{asked}");
    cluster.finish_move(slot, to).unwrap();
    for key in &made {
        target.raw::<()>(redis::cmd("DEL").arg(key)).await;
    }
    let n = worker.next_n();
    let reply = ok(patiently(|| worker.session.sync(n, &[], &finish)).await);
    worker.prev_n = n;
    assert_eq!((reply.verdicts, reply.given_back, reply.lost.len()), (vec![Verdict::Applied; 2], 0, 0));
    assert_eq!(worker.drain().await.len(), 8);
    assert!(target.audit().await.jobs.is_empty());
}

/// Every key of the queue at a node, as DUMP writes it.
async fn dump(rig: &Rig) -> HashMap<Vec<u8>, Vec<u8>> {
    let keys: Vec<Vec<u8>> = rig.raw(redis::cmd("KEYS").arg(rig.key("*"))).await;
    let mut all = HashMap::new();
    for key in keys {
        let value = rig.raw(redis::cmd("DUMP").arg(&key)).await;
        all.insert(key, value);
    }
    all
}

/// A worker as the hub is one: after an error it syncs before anything else.
struct Steady {
    worker: Worker,
    running: Vec<Claim>,
    executed: Vec<Member>,
    errors: Arc<AtomicUsize>,
}

impl Steady {
    /// Tells that all it ran is done, and claims more; answers whether there was anything.
    async fn step(&mut self) -> bool {
        let outcomes: Vec<Applied> = self.running.drain(..).map(|claim| outcome(&claim, complete())).collect();
        let n = self.worker.next_n();
        let answer = self.worker.session.finish_claim(n, self.worker.prev_n, 20, PLENTY, true, &outcomes).await;
        match answer {
            Ok(reply) => {
                let reply = ok(reply);
                self.worker.prev_n = n;
                assert!(reply.verdicts.iter().all(|verdict| *verdict == Verdict::Applied), "{:?}", reply.verdicts);
                self.executed.extend(reply.claims.iter().map(|claim| claim.member));
                self.running = reply.claims;
            }
            Err(error) => {
                assert!(error.is_unavailable(), "{error}");
                self.errors.fetch_add(1, Ordering::SeqCst);
                let errors = Arc::clone(&self.errors);
                let n = self.worker.next_n();
                let (session, outcomes) = (&self.worker.session, &outcomes);
                let reply = patiently(|| {
                    let errors = Arc::clone(&errors);
                    async move {
                        let answer = session.sync(n, &[], outcomes).await;
                        errors.fetch_add(usize::from(answer.is_err()), Ordering::SeqCst);
                        answer
                    }
                });
                let reply = ok(reply.await);
                self.worker.prev_n = n;
                assert_eq!((reply.lost.len(), reply.given_back), (0, 0), "no request was half served");
                assert!(reply.verdicts.iter().all(|verdict| *verdict != Verdict::NotYours));
            }
        }
        !outcomes.is_empty() || !self.running.is_empty()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_under_load_loses_no_job_and_doubles_none() {
    let cluster = cluster(ClusterOptions::default()).await;
    let from = &cluster.nodes()[0];
    let (store, queue) = (Store::new(&config(&cluster)).unwrap(), queue_on(&cluster, from));
    let slot = slot(&cluster, &queue);
    let job = |n: usize| {
        let mut job = NewJob::new(&Args { n }).unwrap();
        job.queue = queue.clone();
        // A lane for each tenant, and a key in Redis for each job.
        job.tenant = Some(tenant(&format!("tenant-{}", n % 40)));
        job.idempotent(&format!("k{n}"))
    };
    let first: Vec<NewJob> = (0..3000).map(&job).collect();
    for answer in store.enqueue(&first).await.unwrap() {
        created(answer.unwrap());
    }
    let over = Arc::new(AtomicBool::new(false));
    let produced = Arc::new(AtomicUsize::new(0));
    let producer = {
        let (over, produced, store) = (Arc::clone(&over), Arc::clone(&produced), store.clone());
        let jobs: Vec<NewJob> = (3000..20_000).map(&job).collect();
        tokio::spawn(async move {
            let mut accepted = Vec::new();
            // At the pace of a system that has something else to do.
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            for batch in jobs.chunks(10) {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                for answer in patiently(|| store.enqueue(batch)).await {
                    accepted.push(Member::fast(answer.unwrap().id()));
                }
                produced.fetch_add(batch.len(), Ordering::SeqCst);
                pace.tick().await;
            }
            accepted
        })
    };
    let errors = Arc::new(AtomicUsize::new(0));
    let executed = Arc::new(AtomicUsize::new(0));
    let consumer = {
        let worker = Worker::open(&store, &queue).await;
        let (over, executed, store, queue) = (Arc::clone(&over), Arc::clone(&executed), store.clone(), queue.clone());
        let mut steady = Steady { worker, running: Vec::new(), executed: Vec::new(), errors: Arc::clone(&errors) };
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(2));
            loop {
                let had_any = steady.step().await;
                executed.store(steady.executed.len(), Ordering::SeqCst);
                if let Err(error) = store.tick(&queue).await {
                    assert!(error.is_unavailable(), "{error}");
                }
                if !had_any && over.load(Ordering::SeqCst) {
                    return steady.executed;
                }
                pace.tick().await;
            }
        })
    };
    let beyond = |number: &Arc<AtomicUsize>, most: usize| {
        let number = Arc::clone(number);
        eventually("the load goes on", move || {
            let is_beyond = number.load(Ordering::SeqCst) > most;
            async move { is_beyond }
        })
    };
    beyond(&executed, 200).await;
    // There and back, so that both ends of a move are the source once.
    for to in [&cluster.nodes()[1], from] {
        let owner = tokio::task::block_in_place(|| cluster.owner(slot)).unwrap();
        tokio::task::block_in_place(|| cluster.begin_move(slot, owner, to)).unwrap();
        loop {
            let before = errors.load(Ordering::SeqCst);
            if tokio::task::block_in_place(|| cluster.move_keys(slot, owner, to, 200)).unwrap() == 0 {
                break;
            }
            // Somebody tried in this state of affairs, and was told to wait.
            beyond(&errors, before).await;
        }
        tokio::task::block_in_place(|| cluster.finish_move(slot, to)).unwrap();
        let (run, made) = (executed.load(Ordering::SeqCst), produced.load(Ordering::SeqCst));
        beyond(&executed, run + 200).await;
        beyond(&produced, made + 20).await;
    }
    over.store(true, Ordering::SeqCst);
    let accepted = producer.await.unwrap();
    let done = tokio::time::timeout(Duration::from_secs(60), consumer).await.unwrap().unwrap();
    println!("{} jobs, {} of them while the slot moved or after, {} refusals", done.len(), accepted.len(), {
        errors.load(Ordering::SeqCst)
    });
    let expected: HashSet<Member> = first.iter().map(|job| Member::fast(job.id)).chain(accepted).collect();
    assert_eq!(done.len(), expected.len(), "a job ran twice, or not at all");
    assert_eq!(done.into_iter().collect::<HashSet<_>>(), expected);
    let rig = rig(&store, &queue, from).await;
    assert!(rig.audit().await.jobs.is_empty());
    let left: Vec<Vec<u8>> = connect_keys(&cluster.nodes()[1], &rig.key("*")).await;
    assert!(left.is_empty(), "{} keys were left behind", left.len());
}

async fn connect_keys(node: &RedisServer, pattern: &str) -> Vec<Vec<u8>> {
    let mut connection = connect(&node.url()).await;
    redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap()
}
