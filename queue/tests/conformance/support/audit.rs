//! What must hold of a queue's keys at any time, whatever happened to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis::Value;
use windrow_queue::store::Counts;

use super::Rig;

type Bytes = Vec<u8>;

/// Where a job is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Lane,
    Suspect,
    Scheduled { due: u64 },
    Running { sid: String, claim_no: u64, suspect: bool },
    ToBury,
    Parked { deadline: u64 },
}

/// All of a queue's keys.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) jobs: BTreeMap<Bytes, Bytes>,
    pub(crate) places: BTreeMap<Bytes, Place>,
    pub(crate) dead: BTreeSet<Bytes>,
    pub(crate) mutable: BTreeMap<Bytes, Bytes>,
    pub(crate) unique: BTreeMap<Bytes, Bytes>,
    pub(crate) sessions: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) deadlines: BTreeMap<String, u64>,
    pub(crate) tokens: usize,
    errors: BTreeSet<Bytes>,
    records: BTreeSet<Bytes>,
    rings: [Vec<Bytes>; 4],
    active: BTreeSet<Bytes>,
    lanes: BTreeMap<Bytes, Vec<Bytes>>,
    twice: Vec<(Bytes, Place)>,
    /// What cancelled jobs left behind in their lanes.
    pub(crate) tombstones: BTreeSet<Bytes>,
    /// What Redis remembers of them.
    noted_tombstones: BTreeSet<Bytes>,
    /// Fields of `meta`.
    pub(crate) meta: BTreeMap<String, String>,
    usage: BTreeMap<Bytes, Bytes>,
    tenant_lanes: BTreeMap<Bytes, Bytes>,
    /// Specs by scope.
    limits: BTreeMap<Bytes, Bytes>,
    /// Lanes that wait for a limit, and what has one.
    pub(crate) waiting: Vec<Bytes>,
    marked_waiting: BTreeSet<Bytes>,
    due: BTreeSet<Bytes>,
    waited_for: BTreeSet<Bytes>,
    /// Running jobs and their sessions, by the id that they count to.
    pub(crate) counted: BTreeMap<Bytes, BTreeMap<Bytes, Bytes>>,
    /// Running jobs that are to stop.
    pub(crate) stopping: BTreeSet<Bytes>,
    pub(crate) progress: BTreeMap<Bytes, Bytes>,
    pub(crate) checkpoints: BTreeMap<Bytes, Bytes>,
    /// State, digest and payload by member.
    pub(crate) callbacks: BTreeMap<Bytes, Bytes>,
    /// Theoretical arrival times in microseconds, by limited id.
    pub(crate) arrivals: BTreeMap<Bytes, u64>,
    callback_tokens: BTreeMap<Bytes, Bytes>,
    batches: BTreeMap<Bytes, BTreeMap<String, Bytes>>,
    /// Leases by member.
    entries: BTreeMap<Bytes, Bytes>,
}

fn list(value: &Value) -> Vec<Bytes> {
    redis::from_redis_value(value.clone()).unwrap()
}

fn map(value: &Value) -> BTreeMap<Bytes, Bytes> {
    redis::from_redis_value(value.clone()).unwrap()
}

fn scores(value: &Value) -> Vec<(Bytes, u64)> {
    let pairs: Vec<(Bytes, f64)> = redis::from_redis_value(value.clone()).unwrap();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times in milliseconds")]
    pairs.into_iter().map(|(member, score)| (member, score as u64)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Snapshot {
    /// Reads all keys of the queue. Nobody may write meanwhile.
    pub(crate) async fn take(rig: &Rig) -> Self {
        let prefix = rig.key("");
        let keys: Vec<Bytes> = rig.raw(redis::cmd("KEYS").arg(format!("{prefix}*"))).await;
        let names: Vec<&[u8]> = keys.iter().map(|key| &key[prefix.len()..]).collect();
        let mut pipe = redis::pipe();
        for (key, name) in keys.iter().zip(&names) {
            match *name {
                b"meta" | b"jobs" | b"mut" | b"err" | b"act" | b"uq" | b"deadrec" | b"use" | b"tl" | b"lim"
                | b"tat" | b"cancel" | b"ckpt" | b"prog" | b"cb" | b"tok" | b"tomb" => pipe.cmd("HGETALL").arg(key),
                b"sched" | b"sess" | b"dead" | b"tobury" | b"parked" | b"due" => {
                    pipe.cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES")
                }
                b"suspect" | b"wake" => pipe.cmd("LRANGE").arg(key).arg(0).arg(-1),
                b"fin" => pipe.cmd("LRANGE").arg(key).arg(0).arg(-1),
                _ if name.starts_with(b"l:") || name.starts_with(b"ring:") || name.starts_with(b"w:") => {
                    pipe.cmd("LRANGE").arg(key).arg(0).arg(-1)
                }
                _ if [&b"s:"[..], b"run:", b"c:", b"b:"].iter().any(|prefix| name.starts_with(prefix)) => {
                    pipe.cmd("HGETALL").arg(key)
                }
                _ => pipe.cmd("TYPE").arg(key),
            };
        }
        let values: Vec<Value> = if keys.is_empty() { Vec::new() } else { rig.pipe(&pipe).await };
        let mut snapshot = Self::default();
        for (name, value) in names.iter().zip(&values) {
            snapshot.read(name, value);
        }
        let Self { jobs, places, tombstones, .. } = &mut snapshot;
        places.retain(|member, place| {
            let stands = jobs.contains_key(member) || !matches!(place, Place::Lane | Place::Suspect);
            if !stands {
                tombstones.insert(member.clone());
            }
            stands
        });
        snapshot
    }

    fn read(&mut self, name: &[u8], value: &Value) {
        match name {
            b"jobs" => self.jobs = map(value),
            b"mut" => self.mutable = map(value),
            b"err" => self.errors = map(value).into_keys().collect(),
            b"act" => {
                let act = map(value);
                self.marked_waiting =
                    act.iter().filter(|(_, left)| **left == b"-1").map(|(lane, _)| lane.clone()).collect();
                self.active = act.into_keys().collect();
            }
            b"uq" => self.unique = map(value),
            b"deadrec" => self.records = map(value).into_keys().collect(),
            b"dead" => self.dead = scores(value).into_iter().map(|(member, _)| member).collect(),
            b"sess" => self.deadlines = scores(value).into_iter().map(|(sid, ms)| (text(&sid), ms)).collect(),
            b"sched" => {
                for (member, due) in scores(value) {
                    self.put(member, Place::Scheduled { due });
                }
            }
            b"tobury" => {
                for (member, _) in scores(value) {
                    self.put(member, Place::ToBury);
                }
            }
            b"suspect" => {
                for member in list(value) {
                    self.put(member, Place::Suspect);
                }
            }
            b"wake" => self.tokens = list(value).len(),
            b"parked" => {
                for (member, deadline) in scores(value) {
                    self.put(member, Place::Parked { deadline });
                }
            }
            b"use" => self.usage = map(value),
            b"tl" => self.tenant_lanes = map(value),
            b"due" => self.due = scores(value).into_iter().map(|(id, _)| id).collect(),
            b"cancel" => self.stopping = map(value).into_keys().collect(),
            b"prog" => self.progress = map(value),
            b"ckpt" => self.checkpoints = map(value),
            b"tat" => self.arrivals = map(value).into_iter().map(|(id, us)| (id, text(&us).parse().unwrap())).collect(),
            b"tomb" => self.noted_tombstones = map(value).into_keys().collect(),
            b"meta" => self.meta = map(value).iter().map(|(k, v)| (text(k), text(v))).collect(),
            b"lim" => self.limits = map(value),
            b"cb" => self.callbacks = map(value),
            b"tok" => self.callback_tokens = map(value),
            b"fin" => assert!(list(value).len() <= 1000, "recent jobs are bounded"),
            b"clock" => {}
            _ => {
                if let Some(lane) = name.strip_prefix(b"l:") {
                    let members = list(value);
                    for member in &members {
                        self.put(member.clone(), Place::Lane);
                    }
                    self.lanes.insert(lane.to_vec(), members);
                } else if let Some(band) = name.strip_prefix(b"ring:") {
                    self.rings[usize::from(band[0] - b'0')] = list(value);
                } else if let Some(id) = name.strip_prefix(b"w:") {
                    self.waiting.extend(list(value));
                    self.waited_for.insert(id.to_vec());
                } else if let Some(id) = name.strip_prefix(b"c:") {
                    self.counted.insert(id.to_vec(), map(value));
                } else if let Some(batch) = name.strip_prefix(b"b:") {
                    let fields = map(value).into_iter().map(|(field, value)| (text(&field), value)).collect();
                    self.batches.insert(batch.to_vec(), fields);
                } else if let Some(sid) = name.strip_prefix(b"s:") {
                    let fields = map(value).iter().map(|(k, v)| (text(k), String::from_utf8_lossy(v).into())).collect();
                    self.sessions.insert(text(sid), fields);
                } else if let Some(sid) = name.strip_prefix(b"run:") {
                    for (member, entry) in map(value) {
                        let claim_no = u64::from_be_bytes(*entry.first_chunk().unwrap());
                        let place = Place::Running { sid: text(sid), claim_no, suspect: entry[14] & 128 != 0 };
                        self.entries.insert(member.clone(), entry);
                        self.put(member, place);
                    }
                } else {
                    let known = [&b"r:"[..], b"i:", b"u:"].iter().any(|prefix| name.starts_with(prefix));
                    assert!(known, "a key that nobody knows: {}", String::from_utf8_lossy(name));
                }
            }
        }
    }

    fn put(&mut self, member: Bytes, place: Place) {
        if let Some(before) = self.places.insert(member.clone(), place) {
            self.twice.push((member, before));
        }
    }

    /// The invariants.
    pub(crate) fn check(&self) {
        assert!(self.twice.is_empty(), "a job is in two places: {:?} in {:#?}", self.twice, self.places);
        for member in self.places.keys() {
            assert!(self.jobs.contains_key(member), "a place without a job: {member:02x?} {:?}", self.places[member]);
        }
        for member in self.jobs.keys() {
            assert!(self.places.contains_key(member), "a lost job: {member:02x?}");
            assert!(!self.records.contains(member), "a job that stands and is dead: {member:02x?}");
        }
        assert_eq!(self.records, self.dead, "records of the dead");
        let beside = [self.mutable.keys(), self.checkpoints.keys(), self.callbacks.keys()].into_iter().flatten();
        for member in beside.chain(self.progress.keys()).chain(&self.errors) {
            assert!(self.jobs.contains_key(member), "a leftover of {member:02x?}");
        }
        for member in &self.stopping {
            let runs = matches!(self.places.get(member), Some(Place::Running { .. }));
            assert!(runs, "what does not run is told to stop: {member:02x?}");
        }
        self.check_lanes();
        self.check_unique();
        self.check_sessions();
        self.check_usage();
        self.check_limits();
        self.check_callbacks();
        self.check_batches();
        assert_eq!(self.noted_tombstones, self.tombstones, "what is remembered of cancelled jobs");
        assert!(self.tokens <= 1, "{} tokens", self.tokens);
    }

    fn check_lanes(&self) {
        let mut ringed = BTreeSet::new();
        for (band, ring) in self.rings.iter().enumerate() {
            for lane in ring {
                assert_eq!(usize::from(lane[0] - b'0'), band, "a lane in a foreign ring");
                assert!(ringed.insert(lane.clone()), "a lane twice in its ring");
            }
        }
        for lane in &self.waiting {
            assert!(ringed.insert(lane.clone()), "a lane that waits for a limit stands elsewhere, too");
        }
        let full: BTreeSet<Bytes> = self.lanes.keys().cloned().collect();
        assert_eq!(ringed, full, "the rings and those who wait for limits are exactly the lanes that have jobs");
        assert_eq!(self.active, full, "act has exactly the lanes that have jobs");
        let waiting: BTreeSet<Bytes> = self.waiting.iter().cloned().collect();
        assert_eq!(self.marked_waiting, waiting, "act says which of them wait");
        for (lane, members) in &self.lanes {
            for member in members {
                // A cancelled job leaves its place behind.
                if let Some(envelope) = self.jobs.get(member) {
                    assert_eq!(lane_of(envelope), &**lane, "a job in a foreign lane");
                }
            }
        }
        let mut expected: BTreeMap<Bytes, u64> = BTreeMap::new();
        for lane in &full {
            *expected.entry(tenant_of(lane).to_vec()).or_default() += 1;
        }
        let counted = self.tenant_lanes.iter().map(|(tenant, lanes)| (tenant.clone(), text(lanes).parse().unwrap()));
        assert_eq!(counted.collect::<BTreeMap<Bytes, u64>>(), expected, "lanes of each tenant");
    }

    /// What tenants use is the sum of what stands.
    fn check_usage(&self) {
        let mut expected: BTreeMap<Bytes, (u32, u64)> = BTreeMap::new();
        for envelope in self.jobs.values() {
            for tenant in [tenant_of(lane_of(envelope)), b"\0"] {
                let usage = expected.entry(tenant.to_vec()).or_default();
                *usage = (usage.0 + 1, usage.1 + envelope.len() as u64);
            }
        }
        let packed = |packed: &Bytes| {
            let count = u32::from_be_bytes(*packed.first_chunk().unwrap());
            (count, packed[4..10].iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte)))
        };
        let usage: BTreeMap<Bytes, (u32, u64)> = self.usage.iter().map(|(k, v)| (k.clone(), packed(v))).collect();
        assert_eq!(usage, expected, "usage by tenant");
        for (member, entry) in &self.entries {
            let (size, envelope) = (u32::from_be_bytes(entry[16..20].try_into().unwrap()), &self.jobs[member]);
            assert_eq!(size as usize, envelope.len(), "the size in a lease");
            assert_eq!(&entry[20..20 + usize::from(entry[15])], lane_of(envelope), "the lane in a lease");
        }
    }

    /// What counts to a limit runs, and where lanes wait somebody looks again.
    fn check_limits(&self) {
        for (id, members) in &self.counted {
            for (member, holder) in members {
                let runs = matches!(&self.places[member], Place::Running { sid, .. } if sid.as_bytes() == holder);
                assert!(runs, "{} counts a job that does not run", String::from_utf8_lossy(id));
            }
        }
        // The queue's own limit holds back no lane; its rate may say when there is room again.
        let due: BTreeSet<Bytes> = self.due.iter().filter(|id| **id != b"q").cloned().collect();
        assert_eq!(due, self.waited_for, "limits are looked at as long as lanes wait for them");
        // After a limit changed, what runs is counted anew, a session at a time.
        if self.meta.contains_key("recount") {
            return;
        }
        let limited = self.meta.get("limited").is_some_and(|limited| limited == "1");
        assert!(limited || self.limits.is_empty(), "limits that nobody looks at");
        let mut expected: BTreeMap<Bytes, BTreeMap<Bytes, Bytes>> = BTreeMap::new();
        for (member, place) in &self.places {
            let Place::Running { sid, .. } = place else { continue };
            for id in ids_of(lane_of(&self.jobs[member])) {
                if self.spec_of(&id).is_some_and(|spec| spec[1..5] != [255; 4]) {
                    expected.entry(id).or_default().insert(member.clone(), sid.clone().into_bytes());
                }
            }
        }
        assert_eq!(self.counted, expected, "what counts to limits is what runs");
    }

    /// The spec that holds for an id: its own, or that of each tenant.
    fn spec_of(&self, id: &[u8]) -> Option<&Bytes> {
        let each = match id.iter().rposition(|&byte| byte == 0x1f) {
            Some(at) if matches!(id[0], b't' | b'b') => [&id[..=at], b"*"].concat(),
            _ => Bytes::new(),
        };
        self.limits.get(id).or_else(|| self.limits.get(&each))
    }

    fn check_batches(&self) {
        let number = |fields: &BTreeMap<String, Bytes>, name: &str| -> usize {
            fields.get(name).map_or(0, |value| text(value).parse().unwrap())
        };
        for (batch, fields) in &self.batches {
            let standing = self.jobs.values().filter(|envelope| batch_of(envelope) == Some(batch)).count();
            let ended: usize = ["c", "d", "x"].iter().map(|end| number(fields, end)).sum();
            assert_eq!(standing + ended, number(fields, "n"), "members of a batch");
            let over = fields.contains_key("sealed") && standing == 0;
            assert_eq!(fields.contains_key("fired"), over, "a batch fires when its last member is final");
        }
    }

    fn check_callbacks(&self) {
        let expected: BTreeMap<Bytes, Bytes> =
            self.callbacks.iter().map(|(member, wait)| (wait[1..17].to_vec(), member.clone())).collect();
        assert_eq!(self.callback_tokens, expected, "tokens are those of the jobs that stand");
        for member in self.jobs.keys() {
            let extras = self.mutable.get(member).and_then(|old| old.get(11)).copied().unwrap_or(0);
            assert_eq!(extras & 1 == 1, self.checkpoints.contains_key(member), "the note of a checkpoint");
        }
    }

    fn check_unique(&self) {
        let mut expected = BTreeMap::new();
        for (member, envelope) in &self.jobs {
            let running = matches!(self.places[member], Place::Running { .. });
            let mut flags = envelope[13];
            if flags & 2 != 0 && flags & 16 == 0 && flags & 8 != 0 {
                // Held while it was queued for the first time only.
                let at = 16 + usize::from(envelope[14]);
                flags &= if self.unique.get(&envelope[at..at + 16]) == Some(member) { 255 } else { !2 };
            }
            if flags & 2 != 0 && flags & 16 == 0 {
                let at = 16 + usize::from(envelope[14]);
                let held = if running { [&member[..], b"r"].concat() } else { member.clone() };
                let twice = expected.insert(envelope[at..at + 16].to_vec(), held);
                assert!(twice.is_none(), "two jobs stand for one unique key");
            }
        }
        assert_eq!(self.unique, expected, "unique keys are those of the jobs that stand");
    }

    fn check_sessions(&self) {
        let mut suspects: HashMap<&str, Vec<&Bytes>> = HashMap::new();
        for (member, place) in &self.places {
            if let Place::Running { sid, suspect, .. } = place {
                assert!(self.deadlines.contains_key(sid), "a lease that no tick will look at");
                if *suspect {
                    suspects.entry(sid).or_default().push(member);
                }
            }
        }
        for (sid, fields) in &self.sessions {
            assert!(self.deadlines.contains_key(sid), "a session that cannot lapse");
            let running = suspects.get(&**sid).map_or(0, Vec::len);
            assert!(running <= 1, "a session has {running} suspects");
            assert_eq!(fields.contains_key("suspect"), running == 1, "the session's note of its suspect");
        }
    }

    /// The counts are exact.
    pub(crate) fn check_counts(&self, counts: &Counts) {
        let of = |matches: fn(&Place) -> bool| self.places.values().filter(|place| matches(place)).count() as u64;
        assert_eq!(counts.ready, of(|place| matches!(place, Place::Lane | Place::Suspect)), "ready");
        assert_eq!(counts.scheduled, of(|place| matches!(place, Place::Scheduled { .. })), "scheduled");
        assert_eq!(counts.running, of(|place| matches!(place, Place::Running { .. })), "running");
        assert_eq!(counts.dead, self.dead.len() as u64, "dead");
        // Behind cancelled jobs it is seen when a claim has passed over them.
        assert!(counts.oldest_ready.is_none() || counts.ready > 0, "the age of the oldest of none");
        let seen = counts.oldest_ready.is_some() || !self.tombstones.is_empty();
        assert!(seen || counts.ready == 0, "the age of the oldest");
    }
}

fn lane_of(envelope: &[u8]) -> &[u8] {
    &envelope[16..16 + usize::from(envelope[14])]
}

/// What the jobs of a lane count to.
fn ids_of(lane: &[u8]) -> Vec<Bytes> {
    let parts: Vec<&[u8]> = lane.split(|&byte| byte == 0x1f).collect();
    let (tenant, kind) = (parts[1], parts[2]);
    let mut ids = vec![b"q".to_vec(), [b"k\x1f", kind].concat()];
    if !tenant.is_empty() {
        ids.push([b"t\x1f", tenant].concat());
        ids.push([b"b\x1f", kind, b"\x1f", tenant].concat());
    }
    ids
}

fn batch_of(envelope: &[u8]) -> Option<&[u8]> {
    let flags = envelope[13];
    let at = 16 + usize::from(envelope[14]) + if flags & 2 == 0 { 0 } else { 16 };
    (flags & 4 != 0).then(|| &envelope[at..at + 16])
}

fn tenant_of(lane: &[u8]) -> &[u8] {
    lane[2..].split(|&byte| byte == 0x1f).next().unwrap()
}
