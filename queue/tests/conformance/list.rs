//! Lists by state: order, filters, cursors over changes, and that no call walks a queue.

use std::{collections::HashSet, future::Future, time::Duration};

use windrow_devserver::{RedisOptions, RedisServer};
use windrow_queue::{
    Band, JobId, Kind, Member, QueueName,
    store::{
        Cursor, Filter, Finish, HeldWhy, JobState, Limit, Listed, Page, Rate, Scope, Session, SessionId, Standing,
        StoreError,
    },
};

use crate::support::*;

async fn page(rig: &Rig, standing: Standing, after: Option<&Cursor>, limit: usize) -> Page<Listed> {
    let page = rig.store.list(&rig.queue, standing, &Filter::default(), after, limit).await.unwrap();
    assert!(page.items.iter().all(|job| job.state == state_of(standing)), "{page:?}");
    page
}

const fn state_of(standing: Standing) -> JobState {
    match standing {
        Standing::Scheduled => JobState::Scheduled,
        Standing::Ready => JobState::Ready,
        Standing::Running => JobState::Running,
        Standing::Parked => JobState::Parked,
    }
}

/// All pages; `between` happens after each but the last.
async fn all<F: Future<Output = ()>>(
    rig: &Rig,
    standing: Standing,
    filter: &Filter,
    limit: usize,
    mut between: impl FnMut(usize) -> F,
) -> Vec<Listed> {
    let (mut listed, mut next): (Vec<Listed>, Option<Cursor>) = (Vec::new(), None);
    for number in 0..10_000 {
        let page = rig.store.list(&rig.queue, standing, filter, next.as_ref(), limit).await.unwrap();
        assert!(page.unreadable.is_empty(), "{page:?}");
        listed.extend(page.items);
        let Some(cursor) = page.next else { return listed };
        // The way of a cursor through programs and URLs.
        next = Some(cursor.to_string().parse().unwrap());
        between(number).await;
    }
    panic!("the pages have no end");
}

async fn quiet(_: usize) {}

fn ids(jobs: &[Listed]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn an_empty_queue_has_empty_lists() {
    let rig = Rig::new().await;
    for standing in [Standing::Scheduled, Standing::Ready, Standing::Running, Standing::Parked] {
        let page = page(&rig, standing, None, 10).await;
        assert!(page.items.is_empty() && page.unreadable.is_empty() && page.next.is_none(), "{page:?}");
    }
    assert!(rig.store.sessions(&rig.queue, None).await.unwrap().items.is_empty());
    assert!(rig.store.recent(&rig.queue, 10).await.unwrap().0.is_empty());
    assert!(rig.store.usage(&rig.queue, None).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn scheduled_jobs_are_listed_by_due_time_with_what_they_are() {
    let rig = Rig::new().await;
    let mut jobs = rig.jobs(50);
    for (n, job) in jobs.iter_mut().enumerate() {
        // Many of one millisecond: the order of members decides among those.
        job.due = due_in(1000 + (n as u64 * 7 % 5));
        job.tenant = n.is_multiple_of(2).then(|| tenant("acme"));
        job.band = if n.is_multiple_of(3) { Band::High } else { Band::Low };
    }
    rig.put(&jobs).await;
    let listed = all(&rig, Standing::Scheduled, &Filter::default(), 7, quiet).await;
    let mut expected: Vec<_> = jobs.iter().enumerate().map(|(n, job)| (n as u64 * 7 % 5, job.id)).collect();
    expected.sort_unstable();
    assert_eq!(ids(&listed), expected.iter().map(|(_, id)| *id).collect::<Vec<_>>());
    for job in &listed {
        let asked = jobs.iter().find(|asked| asked.id == job.id).unwrap();
        assert_eq!((&job.kind, &job.tenant, job.band), (&asked.kind, &asked.tenant, asked.band));
        assert_eq!((job.journaled, job.attempt, job.batch), (false, 0, None));
        assert!(job.at.unwrap().timestamp_millis().unsigned_abs() >= START + 1000);
        assert_eq!(job.enqueued_at.unwrap().timestamp_millis().unsigned_abs(), START);
    }
}

#[tokio::test]
async fn a_page_goes_on_at_its_place_whatever_became_of_the_jobs_around_it() {
    let rig = Rig::new().await;
    let mut jobs = rig.jobs(60);
    for (n, job) in jobs.iter_mut().enumerate() {
        job.due = due_in(1000 + n as u64 / 20);
    }
    rig.put(&jobs).await;
    let before = ids(&all(&rig, Standing::Scheduled, &Filter::default(), 1000, quiet).await);
    let (rig, order) = (&rig, &before);
    let seen = all(rig, Standing::Scheduled, &Filter::default(), 6, |number| async move {
        // The last one seen goes, the next one too, and one comes that is due earlier.
        let at = 6 * (number + 1) + number;
        let gone: Vec<Member> = order[at - 1..(at + 1).min(60)].iter().map(|id| Member::fast(*id)).collect();
        rig.store.cancel(&rig.queue, &gone).await.unwrap();
        let mut early = rig.job(100);
        early.due = due_in(10);
        rig.put(&[early]).await;
    })
    .await;
    let seen: Vec<JobId> = ids(&seen);
    let expected: Vec<JobId> =
        before.iter().enumerate().filter(|(n, _)| !(*n >= 6 && (n - 6).is_multiple_of(7))).map(|(_, id)| *id).collect();
    assert_eq!(seen, expected, "each that stood throughout was listed once, and those that went were left out");
}

#[tokio::test]
async fn jobs_are_found_by_kind_tenant_and_time() {
    let rig = Rig::new().await;
    let mut jobs = rig.jobs(30);
    let other = Kind::new("other.kind").unwrap();
    for (n, job) in jobs.iter_mut().enumerate() {
        job.due = due_in(1000 * (1 + n as u64));
        job.tenant = Some(tenant(if n.is_multiple_of(2) { "acme" } else { "globex" }));
        if n.is_multiple_of(5) {
            job.kind = other.clone();
        }
    }
    rig.put(&jobs).await;
    let count = async |filter: Filter| all(&rig, Standing::Scheduled, &filter, 4, quiet).await.len();
    let acme = Some(tenant("acme"));
    assert_eq!(count(Filter { tenant: acme.clone(), ..Filter::default() }).await, 15);
    assert_eq!(count(Filter { kind: Some(other.clone()), ..Filter::default() }).await, 6);
    assert_eq!(count(Filter { kind: Some(other.clone()), tenant: acme.clone(), ..Filter::default() }).await, 3);
    let at = |n: usize| chrono::DateTime::from_timestamp_millis((START + 1000 * (1 + n as u64)).cast_signed());
    assert_eq!(count(Filter { since: at(10), until: at(19), ..Filter::default() }).await, 10);
    assert_eq!(count(Filter { since: at(10), until: at(19), tenant: acme.clone(), ..Filter::default() }).await, 5);
    assert_eq!(count(Filter { since: at(31), ..Filter::default() }).await, 0);
    rig.advance(60_000).await;
    rig.tick().await;
    let count = async |filter: Filter| all(&rig, Standing::Ready, &filter, 4, quiet).await.len();
    assert_eq!(count(Filter { tenant: acme.clone(), ..Filter::default() }).await, 15);
    assert_eq!(count(Filter { kind: Some(other.clone()), ..Filter::default() }).await, 6);
    assert_eq!(count(Filter { kind: Some(other.clone()), tenant: acme.clone(), ..Filter::default() }).await, 3);
    assert_eq!(count(Filter { since: at(10), until: at(19), ..Filter::default() }).await, 10);
    rig.worker().await.claim(30).await;
    let count = async |filter: Filter| all(&rig, Standing::Running, &filter, 4, quiet).await.len();
    assert_eq!(count(Filter { kind: Some(other), tenant: acme, ..Filter::default() }).await, 3);
    assert_eq!(count(Filter { until: at(0), ..Filter::default() }).await, 0, "claimed later");
}

#[tokio::test]
async fn ready_jobs_are_listed_lane_by_lane_in_the_order_of_claims() {
    let rig = Rig::new().await;
    for round in 0..5 {
        for name in ["a", "b", "c"] {
            rig.put(&[rig.job(round).tenant(tenant(name))]).await;
        }
    }
    rig.put_many(5).await;
    let listed = all(&rig, Standing::Ready, &Filter::default(), 3, quiet).await;
    assert_eq!(listed.len(), 20);
    let lanes: Vec<_> = listed.iter().map(|job| job.tenant.clone()).collect();
    assert!(lanes.chunks(5).all(|lane| lane.iter().all(|name| *name == lane[0])), "{lanes:?}");
    let mut worker = rig.worker().await;
    let claimed = worker.claim_members(20).await;
    for name in [Some("a"), Some("b"), Some("c"), None] {
        let of = |job: &&Listed| job.tenant.as_ref().map(|tenant| tenant.as_str()) == name;
        let order: Vec<Member> = listed.iter().filter(of).map(|job| job.member).collect();
        let as_claimed: Vec<Member> = claimed.iter().filter(|member| order.contains(member)).copied().collect();
        assert_eq!(order, as_claimed, "{name:?}");
    }
}

#[tokio::test]
async fn a_list_of_ready_jobs_misses_none_that_stays_while_others_are_claimed() {
    let rig = Rig::new().await;
    for name in ["a", "b"] {
        rig.put(&(0..3000).map(|n| rig.job(n).tenant(tenant(name))).collect::<Vec<_>>()).await;
    }
    let (mut listed, mut next) = (HashSet::new(), None);
    let mut worker = rig.worker().await;
    let mut twice = 0;
    loop {
        let page = page(&rig, Standing::Ready, next.as_ref(), 150).await;
        for job in &page.items {
            twice += usize::from(!listed.insert(job.id));
        }
        next = page.next;
        if next.is_none() {
            break;
        }
        // Heads go faster than pages come.
        let claims = worker.claim(97).await;
        worker.complete(&claims).await;
    }
    let left: Vec<Member> = worker.drain().await;
    assert!(left.len() > 1000, "{}", left.len());
    for member in left {
        assert!(listed.contains(&member.id), "a job that stood throughout was not listed");
    }
    assert_eq!(twice, 0);
}

#[tokio::test]
async fn a_lane_that_was_emptied_between_two_pages_costs_nothing() {
    let rig = Rig::new().await;
    for name in ["a", "b", "c"] {
        rig.put(&(0..4).map(|n| rig.job(n).tenant(tenant(name))).collect::<Vec<_>>()).await;
    }
    let first = page(&rig, Standing::Ready, None, 6).await;
    let rest: HashSet<JobId> = {
        let all: HashSet<JobId> =
            ids(&all(&rig, Standing::Ready, &Filter::default(), 100, quiet).await).into_iter().collect();
        all.difference(&ids(&first.items).into_iter().collect()).copied().collect()
    };
    let of_b = Filter { tenant: Some(tenant("b")), ..Filter::default() };
    let gone: Vec<Member> = all(&rig, Standing::Ready, &of_b, 100, quiet).await.iter().map(|job| job.member).collect();
    rig.store.cancel(&rig.queue, &gone).await.unwrap();
    let second = page(&rig, Standing::Ready, first.next.as_ref(), 100).await;
    let expected: HashSet<JobId> = rest.into_iter().filter(|id| !gone.contains(&Member::fast(*id))).collect();
    assert_eq!(ids(&second.items).into_iter().collect::<HashSet<_>>(), expected);
    assert_eq!(second.next, None);
}

#[tokio::test]
async fn suspects_come_first_and_are_filtered_too() {
    let rig = Rig::new().await;
    rig.put(&[rig.job(0).tenant(tenant("acme"))]).await;
    for _ in 0..2 {
        rig.worker().await.claim(1).await;
        rig.lapse(&[]).await;
    }
    rig.put_many(2).await;
    let listed = all(&rig, Standing::Ready, &Filter::default(), 1, quiet).await;
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[0].tenant, Some(tenant("acme")));
    let none = Filter { tenant: Some(tenant("globex")), ..Filter::default() };
    assert!(all(&rig, Standing::Ready, &none, 10, quiet).await.is_empty());
    let acme = Filter { tenant: Some(tenant("acme")), kind: Some(listed[0].kind.clone()), ..Filter::default() };
    assert_eq!(all(&rig, Standing::Ready, &acme, 10, quiet).await.len(), 1);
}

#[tokio::test]
async fn a_ready_job_says_what_holds_it_back() {
    let rig = Rig::new().await;
    let job = rig.job(1).tenant(tenant("acme"));
    let kind = job.kind.clone();
    rig.put(&[job.clone(), rig.job(2).tenant(tenant("acme"))]).await;
    let held = async || {
        let listed = page(&rig, Standing::Ready, None, 10).await.items;
        let status = rig.store.status(&rig.queue, listed.last().unwrap().member).await.unwrap().unwrap();
        assert_eq!(status.held_by, listed.last().unwrap().held_by, "list and status agree");
        status.held_by.map(|held| (held.why, held.scope))
    };
    assert_eq!(held().await, None);
    for scope in ["queue", "kind=test.run", "tenant=acme", "kind=test.run,tenant=acme"] {
        let scope: Scope = scope.parse().unwrap();
        rig.store.pause(&rig.queue, &scope).await.unwrap();
        assert_eq!(held().await, Some((HeldWhy::Paused, scope.to_string())));
        rig.store.resume(&rig.queue, &scope).await.unwrap();
        assert_eq!(held().await, None);
    }
    let limit = Limit { concurrency: Some(1), rate: None };
    rig.store.set_limit(&rig.queue, &Scope::EachTenant, &limit).await.unwrap();
    assert_eq!(held().await, None);
    let mut worker = rig.worker().await;
    let claims = worker.claim(5).await;
    assert_eq!(claims.len(), 1);
    assert_eq!(held().await, Some((HeldWhy::Concurrency, "tenant=acme".into())));
    assert_eq!(rig.store.counts(&rig.queue).await.unwrap().lanes_waiting, 1);
    worker.complete(&claims).await;
    rig.store.clear_limit(&rig.queue, &Scope::EachTenant).await.unwrap();
    let rate = Rate { count: 1, per: Duration::from_secs(60), burst: None };
    rig.store.set_limit(&rig.queue, &Scope::Kind(kind), &Limit { concurrency: None, rate: Some(rate) }).await.unwrap();
    rig.put_many(2).await;
    assert_eq!(worker.claim(5).await.len(), 1);
    assert_eq!(held().await, Some((HeldWhy::Rate, "kind=test.run".into())));
}

#[tokio::test]
async fn running_jobs_are_listed_by_session_with_since_when_and_how_far() {
    let rig = Rig::new().await;
    let fast = rig.put_many(4).await;
    let journaled = rig.relay_many(2).await;
    let (mut one, mut two) = (rig.worker().await, rig.worker().await);
    rig.advance(50).await;
    let first = one.claim(2).await;
    rig.advance(50).await;
    let second = two.claim(10).await;
    assert_eq!((first.len(), second.len()), (2, 4));
    let hold = windrow_queue::store::Hold {
        queue: rig.queue.clone(),
        session: one.session.id().clone(),
        member: first[0].member,
        claim_no: first[0].claim_no,
    };
    assert!(rig.store.progress(&hold, 3, 8).await.unwrap());
    rig.store.cancel(&rig.queue, &[first[1].member]).await.unwrap();
    let listed = all(&rig, Standing::Running, &Filter::default(), 1, quiet).await;
    assert_eq!(listed.len(), 6);
    for (worker, claims, since) in [(&one, &first, START + 50), (&two, &second, START + 100)] {
        for claim in claims {
            let job = listed.iter().find(|job| job.member == claim.member).unwrap();
            assert_eq!(job.session.as_deref(), Some(worker.session.id().as_str()));
            assert_eq!(job.at.unwrap().timestamp_millis().unsigned_abs(), since);
            assert_eq!(job.journaled, journaled.contains(&job.member));
            let status = rig.store.status(&rig.queue, claim.member).await.unwrap().unwrap();
            assert_eq!(
                (status.state, status.session, status.running_since),
                (JobState::Running, job.session.clone(), job.at)
            );
            assert_eq!((status.progress, status.stopping), (job.progress, job.stopping));
        }
    }
    let of = |member: Member| listed.iter().find(|job| job.member == member).unwrap();
    let progress = of(first[0].member).progress.unwrap();
    assert_eq!((progress.done, progress.total), (3, 8));
    assert!(of(first[1].member).stopping && !of(first[0].member).stopping);
    assert!(fast.iter().all(|member| !of(*member).journaled));

    let sessions = rig.store.sessions(&rig.queue, None).await.unwrap();
    assert_eq!(sessions.next, None);
    let mut running: Vec<_> =
        sessions.items.iter().map(|one| (one.running, one.slots, &*one.info, one.alive)).collect();
    running.sort_unstable();
    assert_eq!(running, [(2, 100, "test", true), (4, 100, "test", true)]);
}

#[tokio::test]
async fn parked_jobs_are_listed_by_deadline() {
    let rig = Rig::new().await;
    let members = rig.put_many(5).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(5).await;
    let parks: Vec<_> = claims
        .iter()
        .enumerate()
        .map(|(n, claim)| outcome(claim, Finish::Park { delay: Duration::from_secs(100 - n as u64) }))
        .collect();
    worker.finish(&parks).await;
    let listed = all(&rig, Standing::Parked, &Filter::default(), 2, quiet).await;
    let expected: Vec<Member> = claims.iter().rev().map(|claim| claim.member).collect();
    assert_eq!(listed.iter().map(|job| job.member).collect::<Vec<_>>(), expected);
    assert_eq!(listed[0].at.unwrap().timestamp_millis().unsigned_abs(), START + 96_000);
    let status = rig.store.status(&rig.queue, members[0]).await.unwrap().unwrap();
    assert_eq!(status.state, JobState::Parked);
    assert!(status.park_deadline.is_some());
    assert_eq!(rig.store.counts(&rig.queue).await.unwrap().parked, 5);
    rig.audit().await;
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_shown_as_such() {
    let rig = Rig::new().await;
    let mut job = rig.job(1);
    job.due = due_in(1000);
    let members = rig.put(&[job, rig.job(2)]).await;
    let good = rig.put_many(1).await[0];
    for member in &members {
        rig.raw::<()>(redis::cmd("HSET").arg(rig.key("jobs")).arg(member.to_bytes()).arg("of another version")).await;
    }
    for (standing, member) in [(Standing::Scheduled, members[0]), (Standing::Ready, members[1])] {
        let page = rig.store.list(&rig.queue, standing, &Filter::default(), None, 10).await.unwrap();
        assert_eq!((page.unreadable.len(), page.unreadable[0].id), (1, Some(member.id)), "{standing:?}");
        let good: Vec<Member> = if standing == Standing::Ready { vec![good] } else { Vec::new() };
        assert_eq!(page.items.iter().map(|job| job.member).collect::<Vec<_>>(), good);
    }
    let acme = Filter { tenant: Some(tenant("acme")), ..Filter::default() };
    let page = rig.store.list(&rig.queue, Standing::Scheduled, &acme, None, 10).await.unwrap();
    assert_eq!(page.unreadable.len(), 1, "nobody knows whose it is, so everybody sees it");
}

#[tokio::test]
async fn a_cursor_of_another_list_is_refused() {
    let rig = Rig::new().await;
    let mut jobs = rig.jobs(4);
    jobs[0].due = due_in(1000);
    jobs[1].due = due_in(1000);
    rig.put(&jobs).await;
    let scheduled = page(&rig, Standing::Scheduled, None, 1).await.next.unwrap();
    let ready = page(&rig, Standing::Ready, None, 1).await.next.unwrap();
    for (standing, cursor) in [
        (Standing::Ready, &scheduled),
        (Standing::Parked, &scheduled),
        (Standing::Scheduled, &ready),
        (Standing::Running, &ready),
    ] {
        let refused = rig.store.list(&rig.queue, standing, &Filter::default(), Some(cursor), 1).await.unwrap_err();
        assert!(matches!(refused, StoreError::Invalid(_)), "{refused}");
    }
    assert!(rig.store.dead(&rig.queue, &Filter::default(), Some(&ready), 1).await.is_err());
    assert!(rig.store.sessions(&rig.queue, Some(&ready)).await.is_err());
    assert!(rig.store.usage(&rig.queue, Some(&ready)).await.is_err());
}

#[tokio::test]
async fn more_sessions_than_one_call_looks_at_are_all_found() {
    let rig = Rig::new().await;
    let members = rig.put_many(1200).await;
    let mut workers = Vec::new();
    for _ in 0..1200 {
        let mut worker = rig.worker().await;
        assert_eq!(worker.claim(1).await.len(), 1);
        workers.push(worker);
    }
    let counts = rig.store.counts(&rig.queue).await.unwrap();
    assert_eq!((counts.sessions, counts.running, counts.ready), (1200, 1200, 0));
    for member in members.iter().step_by(101) {
        let status = rig.store.status(&rig.queue, *member).await.unwrap().unwrap();
        assert_eq!(status.state, JobState::Running);
    }
    let listed = all(&rig, Standing::Running, &Filter::default(), 100, quiet).await;
    assert_eq!(ids(&listed).into_iter().collect::<HashSet<_>>().len(), 1200);
    let (mut seen, mut next, mut pages) = (HashSet::new(), None, 0);
    loop {
        let page = rig.store.sessions(&rig.queue, next.as_ref()).await.unwrap();
        assert!(page.items.len() < 400, "{}", page.items.len());
        seen.extend(page.items.into_iter().map(|session| session.id));
        pages += 1;
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 1200);
    assert!(pages > 3);
}

#[tokio::test]
async fn what_finished_lately_is_remembered_newest_first() {
    let rig = Rig::new().await;
    let jobs: Vec<_> = (0..4).map(|n| rig.job(n).tenant(tenant("acme"))).collect();
    rig.put(&jobs).await;
    let mut worker = rig.worker().await;
    let claims = worker.claim(4).await;
    let ends = [
        complete(),
        Finish::Cancel { keep: None },
        Finish::Bury { error: error(1, "no") },
        Finish::Complete { keep: Some("{}".into()) },
    ];
    for (claim, end) in claims.iter().zip(ends) {
        rig.advance(10).await;
        worker.finish(&[outcome(claim, end)]).await;
    }
    let (recent, unreadable) = rig.store.recent(&rig.queue, 10).await.unwrap();
    assert!(unreadable.is_empty());
    let outcomes: Vec<_> = recent.iter().map(|job| serde_json::to_value(job.outcome).unwrap()).collect();
    assert_eq!(outcomes, ["completed", "dead", "cancelled", "completed"]);
    let order: Vec<JobId> = recent.iter().map(|job| job.id).collect();
    assert_eq!(order, claims.iter().rev().map(|claim| claim.member.id).collect::<Vec<_>>());
    for (job, ms) in recent.iter().zip([40, 30, 20, 10]) {
        assert_eq!((job.tenant.as_ref(), job.journaled), (Some(&tenant("acme")), false));
        assert_eq!(job.finished_at.unwrap().timestamp_millis().unsigned_abs(), START + ms);
        assert_eq!(job.claimed_at.unwrap().timestamp_millis().unsigned_abs(), START);
    }
    assert_eq!(rig.store.recent(&rig.queue, 2).await.unwrap().0.len(), 2);
    rig.raw::<()>(redis::cmd("LPUSH").arg(rig.key("fin")).arg("odd")).await;
    assert_eq!(rig.store.recent(&rig.queue, 2).await.unwrap().1.len(), 1);
    // A thousand are kept.
    for _ in 0..150 {
        rig.put_many(8).await;
        worker.drain().await;
    }
    assert_eq!(rig.store.recent(&rig.queue, 5000).await.unwrap().0.len(), 1000);
}

#[tokio::test]
async fn usage_is_known_by_tenant() {
    let rig = Rig::new().await;
    for n in 0..600 {
        let name = format!("t{}", n % 300);
        rig.put(&[rig.job(n).tenant(tenant(&name))]).await;
    }
    rig.put_many(2).await;
    let (mut of, mut next) = (std::collections::HashMap::new(), None);
    loop {
        let page = rig.store.usage(&rig.queue, next.as_ref()).await.unwrap();
        of.extend(page.items.into_iter().map(|usage| (usage.tenant.clone(), usage)));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(of.len(), 301);
    assert!(of.iter().all(|(_, usage)| usage.jobs == 2 && usage.bytes > 50), "{of:?}");
    let counts = rig.store.counts(&rig.queue).await.unwrap();
    assert_eq!((counts.ready, counts.lanes, counts.tenants), (602, 301, 301));
    assert_eq!(counts.bytes, of.values().map(|usage| usage.bytes).sum::<u64>());
    rig.worker().await.drain().await;
    assert!(rig.store.usage(&rig.queue, None).await.unwrap().items.is_empty());
    assert_eq!(rig.store.counts(&rig.queue).await.unwrap().bytes, 0);
}

/// Commands that scripts ran on this server since the last call, and bytes that it sent.
async fn cost(rig: &Rig) -> (u64, u64) {
    let stats: String = rig.raw(redis::cmd("INFO").arg("everything")).await;
    let sum = stats
        .lines()
        .filter(|line| line.starts_with("cmdstat_"))
        .filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok())
        .sum();
    let sent =
        stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap().trim().parse().unwrap();
    rig.raw::<()>(redis::cmd("CONFIG").arg("RESETSTAT")).await;
    (sum, sent)
}

/// What one page may cost, whatever the queue holds: no more than for a few hundred jobs.
const MOST_COMMANDS: u64 = 1500;
const MOST_BYTES: u64 = 200_000;

#[tokio::test]
async fn a_page_of_fifty_thousand_jobs_costs_what_a_page_of_a_hundred_does() {
    let server = tokio::task::spawn_blocking(|| RedisServer::start(RedisOptions::default())).await.unwrap().unwrap();
    let rig = Rig::at(&server.url(), |_| ()).await;
    let many = 50_000;
    let mut jobs = rig.jobs(many);
    for (n, job) in jobs.iter_mut().enumerate() {
        *job = job.clone().tenant(tenant(&format!("t{}", n % 1000)));
    }
    rig.put(&jobs[..many / 2]).await;
    for job in &mut jobs[many / 2..] {
        // All in one millisecond: the worst case for going on.
        job.due = due_in(3_600_000);
    }
    rig.put(&jobs[many / 2..]).await;
    let mut worker = Worker::open(&rig.store, &rig.queue).await;
    let mut claims = Vec::new();
    while claims.len() < 5000 {
        claims.extend(worker.claim(500).await);
    }
    let ends: Vec<_> =
        claims[..1000].iter().map(|claim| outcome(claim, Finish::Bury { error: error(1, "no") })).collect();
    for chunk in ends.chunks(500) {
        worker.finish(chunk).await;
    }
    let bounded = async |what: &str| {
        let (commands, bytes) = cost(&rig).await;
        assert!(commands < MOST_COMMANDS && bytes < MOST_BYTES, "{what}: {commands} commands, {bytes} bytes");
    };
    cost(&rig).await;
    for (standing, expected) in
        [(Standing::Scheduled, many / 2), (Standing::Ready, many / 2 - 5000), (Standing::Running, 4000)]
    {
        let (mut seen, mut next) = (HashSet::new(), None::<Cursor>);
        let mut pages = 0;
        loop {
            let page = page(&rig, standing, next.as_ref(), 100).await;
            if pages < 20 || pages % 50 == 0 {
                bounded(&format!("page {pages} of {standing:?}")).await;
            } else {
                cost(&rig).await;
            }
            pages += 1;
            seen.extend(ids(&page.items));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), expected, "{standing:?}");
    }
    let nobody = Filter { tenant: Some(tenant("nobody")), ..Filter::default() };
    let page = rig.store.list(&rig.queue, Standing::Ready, &nobody, None, 100).await.unwrap();
    bounded("a filter that fits nothing").await;
    assert!(page.items.is_empty());
    let page = rig.store.list(&rig.queue, Standing::Scheduled, &nobody, None, 1000).await.unwrap();
    let (commands, bytes) = cost(&rig).await;
    assert!(page.items.is_empty() && page.next.is_some(), "it says where to go on, and does not walk to the end");
    assert!(commands < 20_000 && bytes < MOST_BYTES, "{commands} commands, {bytes} bytes");
    rig.store.dead(&rig.queue, &Filter::default(), None, 100).await.unwrap();
    bounded("a page of the dead").await;
    rig.store.counts(&rig.queue).await.unwrap();
    bounded("counts").await;
    rig.store.status(&rig.queue, Member::fast(jobs[many - 1].id)).await.unwrap().unwrap();
    bounded("a status").await;
    rig.store.usage(&rig.queue, None).await.unwrap();
    bounded("a page of usage").await;
    rig.store.recent(&rig.queue, 1000).await.unwrap();
    bounded("recent jobs").await;
}

#[tokio::test]
async fn large_jobs_make_a_page_read_in_parts_and_are_never_sent() {
    let server = tokio::task::spawn_blocking(|| RedisServer::start(RedisOptions::default())).await.unwrap().unwrap();
    let rig = Rig::at(&server.url(), |_| ()).await;
    let text = format!("\"{}\"", "x".repeat(200_000));
    let mut jobs = rig.jobs(100);
    for (n, job) in jobs.iter_mut().enumerate() {
        job.args = raw_args(text.clone());
        if n >= 50 {
            job.due = due_in(1000);
        }
    }
    rig.put(&jobs).await;
    cost(&rig).await;
    for standing in [Standing::Scheduled, Standing::Ready] {
        let listed = all(&rig, standing, &Filter::default(), 50, quiet).await;
        assert_eq!(listed.len(), 50);
        let (_, bytes) = cost(&rig).await;
        assert!(bytes < 50_000, "{bytes} bytes for {standing:?}");
    }
}

#[tokio::test]
async fn lists_of_a_queue_that_nobody_knows_are_empty_not_errors() {
    let rig = Rig::new().await;
    let other = QueueName::new(format!("x{:016x}", random())).unwrap();
    rig.raw::<()>(redis::cmd("SET").arg(format!("windrow:{{{other}}}:clock")).arg(START)).await;
    assert!(rig.store.list(&other, Standing::Running, &Filter::default(), None, 5).await.unwrap().items.is_empty());
    // A session whose key is gone has nothing to show but itself.
    let session = Session::open(&rig.store, &rig.queue, SessionId::from_random(random()), 3, "gone").await.unwrap();
    rig.raw::<()>(redis::cmd("DEL").arg(rig.key(&format!("s:{}", session.id().as_str())))).await;
    let listed = rig.store.sessions(&rig.queue, None).await.unwrap().items;
    assert_eq!((listed.len(), listed[0].alive), (1, false));
}
