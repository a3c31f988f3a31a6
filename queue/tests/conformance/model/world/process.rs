//! What worker processes do, and what is lost on the way.

use std::{collections::BTreeMap, sync::Arc};

use windrow_queue::{
    JobId, Member,
    store::{Applied, CalledBack, ClaimReply, Hold, Reply, Session, SessionId, SyncReply, Verdict},
};

use super::{World, digest, finish, member};
use crate::{
    model::{
        op::{End, Fate, Note, Token, Want},
        reference::{Answer, Came, Key},
    },
    support::{PLENTY, Place},
};

/// What a process remembers.
pub(super) struct Process {
    session: Arc<Session>,
    n: u64,
    answered: u64,
    running: BTreeMap<Vec<u8>, u64>,
    /// Outcomes whose fate it does not know, and the last that it knows.
    recent: Vec<Applied>,
    /// Something was lost: it must sync first.
    dirty: bool,
}

/// A request that is still on its way.
pub(super) struct Late {
    session: Arc<Session>,
    n: u64,
    answered: u64,
    what: What,
}

enum What {
    Request { want: Want, journaled_ok: bool, outcomes: Vec<Applied> },
    Sync { running: Vec<(Member, u64)>, recent: Vec<Applied> },
}

/// How many were claimed, and whether there is more.
type Got = (usize, bool);

impl World {
    pub(super) async fn open(&mut self) -> Process {
        let id = SessionId::from_random(self.number());
        self.reference.hello(id.as_str(), self.rig.now());
        let session = Session::open(&self.rig.store, &self.rig.queue, id, 10, "model").await.unwrap();
        Process {
            session: Arc::new(session),
            n: 0,
            answered: 0,
            running: BTreeMap::new(),
            recent: Vec::new(),
            dirty: false,
        }
    }

    /// A job that a process holds, or believes to hold, or says it does.
    fn pick(&self, process: usize, pick: usize, token: Token) -> Option<(Member, u64)> {
        let mine = |process: &Process| {
            process.running.iter().map(|(key, claim_no)| (member(key), *claim_no)).collect::<Vec<_>>()
        };
        let from: Vec<(Member, u64)> = match token {
            Token::Foreign => {
                let others = self.processes.iter().enumerate().filter(|(other, _)| *other != process);
                others.flat_map(|(_, other)| mine(other)).collect()
            }
            _ => mine(&self.processes[process]),
        };
        let &(member, claim_no) = from.get(pick % from.len().max(1))?;
        Some((member, claim_no + u64::from(matches!(token, Token::Wrong))))
    }

    /// The outcomes that a process tells, true ones and false ones.
    fn outcomes(&self, process: usize, ends: &[(usize, End, Token)]) -> Vec<Applied> {
        let mut outcomes: Vec<Applied> = Vec::new();
        for (i, (pick, end, token)) in ends.iter().enumerate() {
            let Some((member, claim_no)) = self.pick(process, pick + i, *token) else { continue };
            let outcome = Applied { member, claim_no, finish: finish(*end, &self.rig.job(0)) };
            outcomes.push(outcome.clone());
            if matches!(token, Token::Twice) {
                outcomes.push(outcome);
            }
        }
        outcomes
    }

    /// Nothing but a sync may follow what was lost.
    async fn settle(&mut self, i: usize) {
        for _ in 0..2 {
            if self.processes[i].dirty {
                self.sync(i, Fate::Answered).await;
            }
        }
    }

    pub(super) async fn request(
        &mut self,
        i: usize,
        want: Want,
        journaled_ok: bool,
        ends: &[(usize, End, Token)],
        fate: Fate,
    ) -> Option<Got> {
        self.settle(i).await;
        let outcomes = self.outcomes(i, ends);
        let process = &mut self.processes[i];
        process.n += 1;
        let (session, n, answered) = (Arc::clone(&process.session), process.n, process.answered);
        for outcome in &outcomes {
            // What it has told it does not run any more, unless it told a lie.
            if process.running.get(&outcome.member.to_bytes()) == Some(&outcome.claim_no) {
                process.running.remove(&outcome.member.to_bytes());
            }
        }
        process.recent.extend(outcomes.iter().cloned());
        if fate == Fate::Delayed {
            process.dirty = true;
            let what = What::Request { want, journaled_ok, outcomes };
            self.late.push(Late { session, n, answered, what });
            return None;
        }
        let reply = self.send_request(&session, n, answered, want, journaled_ok, &outcomes).await;
        let process = &mut self.processes[i];
        if fate == Fate::AnswerLost {
            process.dirty = true;
            return None;
        }
        match reply {
            Reply::Ok(reply) => {
                process.answered = n;
                process.running.extend(reply.claims.iter().map(|claim| (claim.member.to_bytes(), claim.claim_no)));
                let known = process.recent.len().saturating_sub(10);
                process.recent.drain(..known);
                return Some((reply.claims.len(), reply.more));
            }
            Reply::Gone => self.processes[i] = self.open().await,
            Reply::Stale | Reply::Rollback => process.dirty = true,
        }
        None
    }

    /// Sends a request, and compares the answer with the reference's.
    async fn send_request(
        &mut self,
        session: &Session,
        n: u64,
        answered: u64,
        want: Want,
        journaled_ok: bool,
        outcomes: &[Applied],
    ) -> Reply<ClaimReply> {
        let (sid, now) = (session.id().as_str(), self.rig.now());
        let ready_before = self.in_rings().await;
        let reply = session.finish_claim(n, answered, want.jobs, want.bytes, journaled_ok, outcomes).await.unwrap();
        let expected = self.reference.request(sid, n, answered);
        let Reply::Ok(answer) = &reply else {
            assert_eq!(expected, status(&reply));
            return reply;
        };
        assert_eq!(expected, Answer::Ok(()));
        let members: Vec<Member> = answer.claims.iter().map(|claim| claim.member).collect();
        assert!(members.len() <= want.jobs);
        let bytes = members.iter().map(|member| self.reference.jobs[&member.to_bytes()].bytes).sum::<usize>();
        assert!(members.len() <= 1 || bytes <= want.bytes, "{bytes} bytes, and {want:?}");
        let suspect = self.reference.suspect_of(sid).cloned();
        let mut before = self.reference.clone();
        let verdicts = self.reference.finish(sid, outcomes, now);
        assert_eq!(answer.verdicts, verdicts);
        let freed = suspect.as_ref().is_none_or(|key| {
            outcomes.iter().zip(&verdicts).any(|(o, v)| *v == Verdict::Applied && o.member.to_bytes() == *key)
        });
        // Claims are read before outcomes are applied: what this request gave back, it did not get.
        before.claimed(sid, n, &members, journaled_ok, freed, now);
        self.reference.claimed(sid, n, &members, journaled_ok, freed, now);
        for claim in &answer.claims {
            let job = &self.reference.jobs[&claim.member.to_bytes()];
            assert_eq!((claim.claim_no, claim.attempt, claim.rescues), (n, job.attempt, job.rescues));
            assert_eq!(claim.extras, job.noted || job.checkpoint.is_some(), "{job:?}");
        }
        let tokens = self.tokens().await;
        if !self.in_reach().await {
            assert_eq!(tokens, 0, "a drained claim clears the token");
        }
        if journaled_ok {
            // A band whose turn it was may have had nothing but limited lanes: then it is told to ask again.
            assert!(
                want.jobs == 0 || !ready_before || !members.is_empty() || answer.more,
                "there was something to claim"
            );
            let left = self.in_rings().await;
            // What follows a batch that ended here is told to whoever waits.
            assert!(answer.more || !left || tokens == 1, "there is more");
            if want.jobs > 0 && members.len() == want.jobs && left {
                assert_eq!(tokens, 1, "a claim that leaves something wakes the next");
            }
        }
        reply
    }

    /// Whether claims come by a lane from which a job may be taken now.
    async fn in_rings(&self) -> bool {
        let ringed = self.ringed().await;
        let mut claimable = self.reference.claimable(self.rig.now());
        claimable.any(|(_, job)| job.place == Place::Lane && ringed.contains(&job.lane.encode()))
    }

    /// What no limit and no pause holds back is claimed, after one tick and as many requests as it is told to send.
    pub(super) async fn hungry(&mut self, i: usize, rounds: u8, pause: u64) {
        self.eat(i).await;
        for _ in 1..rounds {
            let ends = vec![(0, End::Complete, Token::Right); self.processes[i].running.len()];
            self.request(i, Want { jobs: 0, bytes: 0 }, true, &ends, Fate::Answered).await;
            self.rig.advance(pause).await;
            self.eat(i).await;
        }
    }

    async fn eat(&mut self, i: usize) {
        self.settle(i).await;
        self.heartbeat(i).await;
        self.tick().await;
        for round in 0.. {
            assert!(round < 40, "a claim is told to ask again for ever");
            match self.request(i, Want { jobs: 50, bytes: PLENTY }, true, &[], Fate::Answered).await {
                Some((0, false)) => break,
                // It was told that Redis forgot something.
                None => self.settle(i).await,
                Some(_) => {}
            }
        }
        let sid = self.processes[i].session.id().as_str();
        let alone = self.reference.suspect_of(sid).is_none();
        let now = self.rig.now();
        let left: Vec<_> = self.reference.claimable(now).filter(|(_, job)| alone || job.place == Place::Lane).collect();
        assert!(left.is_empty(), "nothing holds these back: {left:?}");
    }

    pub(super) async fn sync(&mut self, i: usize, fate: Fate) {
        let process = &mut self.processes[i];
        process.n += 1;
        let (session, n) = (Arc::clone(&process.session), process.n);
        let running: Vec<(Member, u64)> = process.running.iter().map(|(key, no)| (member(key), *no)).collect();
        let recent = process.recent.clone();
        if fate == Fate::Delayed {
            process.dirty = true;
            self.late.push(Late { session, n, answered: 0, what: What::Sync { running, recent } });
            return;
        }
        let reply = self.send_sync(&session, n, &running, &recent).await;
        let process = &mut self.processes[i];
        if fate == Fate::AnswerLost {
            process.dirty = true;
            return;
        }
        match reply {
            Reply::Ok(reply) => {
                process.answered = n;
                process.dirty = false;
                for member in reply.lost {
                    process.running.remove(&member.to_bytes());
                }
            }
            Reply::Gone => self.processes[i] = self.open().await,
            Reply::Stale | Reply::Rollback => process.dirty = true,
        }
    }

    async fn send_sync(
        &mut self,
        session: &Session,
        n: u64,
        running: &[(Member, u64)],
        recent: &[Applied],
    ) -> Reply<SyncReply> {
        let expected = self.reference.sync(session.id().as_str(), n, running, recent, self.rig.now());
        let reply = session.sync(n, running, recent).await.unwrap();
        match (&reply, expected) {
            (Reply::Ok(reply), Answer::Ok((verdicts, given_back, lost))) => {
                assert_eq!((&reply.verdicts, reply.given_back, &reply.lost), (&verdicts, given_back, &lost));
                assert!(!reply.more);
            }
            (_, Answer::Ok(_)) => panic!("the sync was served as {reply:?}"),
            (_, Answer::Gone) => assert!(matches!(reply, Reply::Gone), "{reply:?}"),
            (_, Answer::Stale | Answer::Rollback) => assert!(matches!(reply, Reply::Stale), "{reply:?}"),
        }
        reply
    }

    /// A request arrives that nobody waits for any more; some arrive twice.
    pub(super) async fn arrive(&mut self, i: usize) {
        if self.late.is_empty() {
            return;
        }
        let at = i % self.late.len();
        let Late { session, n, answered, what } = self.late.swap_remove(at);
        match &what {
            What::Request { want, journaled_ok, outcomes } => {
                self.send_request(&session, n, answered, *want, *journaled_ok, outcomes).await;
            }
            What::Sync { running, recent } => {
                self.send_sync(&session, n, running, recent).await;
            }
        }
        if i.is_multiple_of(3) {
            self.late.push(Late { session, n, answered, what });
        }
    }

    pub(super) async fn heartbeat(&mut self, i: usize) {
        let session = Arc::clone(&self.processes[i].session);
        let expected = self.reference.heartbeat(session.id().as_str(), self.rig.now());
        match session.heartbeat().await.unwrap() {
            Reply::Ok(beat) => {
                let stop = beat.cancelled.iter().map(|member| member.to_bytes()).collect();
                assert_eq!(Answer::Ok((beat.held, beat.n, stop)), expected);
            }
            Reply::Gone => {
                assert_eq!(expected, Answer::Gone);
                self.processes[i] = self.open().await;
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn bye(&mut self, i: usize) {
        let session = Arc::clone(&self.processes[i].session);
        let closed = self.reference.bye(session.id().as_str());
        assert_eq!(session.bye().await.unwrap(), closed);
        // One that could not close is left to lapse, and still has requests on their way.
        self.processes[i] = self.open().await;
    }

    /// What waits for an attempt is read, and an answer counts as read from then on.
    pub(super) async fn extras(&mut self, pick: usize) {
        let keys: Vec<Key> = self.reference.jobs.keys().cloned().collect();
        let Some(key) = keys.get(pick % keys.len().max(1)) else { return };
        let job = self.reference.jobs.get_mut(key).expect("it stands");
        let extras = self.rig.store.extras(&self.rig.queue, member(key)).await.unwrap();
        assert_eq!(extras.checkpoint, job.checkpoint.map(|state| vec![state]));
        let came = extras.callback.map(|came| match came {
            CalledBack::Payload(payload) => Some(payload.get().to_owned()),
            CalledBack::TimedOut => None,
        });
        let expected = match job.wait.as_mut().map(|(_, came)| came) {
            None | Some(Came::Nothing) => None,
            Some(Came::TooLate) => Some(None),
            Some(came) => {
                let payload = match *came {
                    Came::Payload(payload) | Came::Read(payload) => payload,
                    _ => unreachable!("the others are above"),
                };
                *came = Came::Read(payload);
                Some(Some(payload.to_string()))
            }
        };
        assert_eq!(came, expected);
    }

    /// A job writes about itself, or somebody does who does not run it.
    pub(super) async fn note(&mut self, i: usize, pick: usize, token: Token, note: Note) {
        let (member, claim_no) = self.pick(i, pick, token).unwrap_or((Member::fast(JobId::new()), 1));
        let session = self.processes[i].session.id().clone();
        let key: Key = member.to_bytes();
        let job = self.reference.holds(session.as_str(), &key, claim_no);
        let store = &self.rig.store;
        let hold = Hold { queue: self.rig.queue.clone(), session: session.clone(), member, claim_no };
        let (written, expected) = match note {
            Note::Checkpoint(state) => {
                let expected = job.map(|job| job.checkpoint = Some(state)).is_some();
                (store.checkpoint(&hold, &[state]).await.unwrap(), expected)
            }
            Note::Progress(done) => {
                let expected = job.map(|job| job.progress = Some(done)).is_some();
                (store.progress(&hold, done.into(), 255).await.unwrap(), expected)
            }
            Note::Expect(token) => {
                let expected = self.reference.expect_callback(session.as_str(), &key, claim_no, token);
                (store.expect_callback(&hold, digest(token)).await.unwrap(), expected)
            }
        };
        assert_eq!(written, expected, "{note:?}");
    }
}

fn status<T>(reply: &Reply<T>) -> Answer<()> {
    match reply {
        Reply::Ok(_) => Answer::Ok(()),
        Reply::Gone => Answer::Gone,
        Reply::Stale => Answer::Stale,
        Reply::Rollback => Answer::Rollback,
    }
}
