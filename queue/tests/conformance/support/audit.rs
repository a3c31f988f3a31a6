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
                b"meta" | b"jobs" | b"mut" | b"err" | b"act" | b"uq" | b"deadrec" => pipe.cmd("HGETALL").arg(key),
                b"sched" | b"sess" | b"dead" | b"tobury" => {
                    pipe.cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES")
                }
                b"suspect" | b"wake" => pipe.cmd("LRANGE").arg(key).arg(0).arg(-1),
                _ if name.starts_with(b"l:") || name.starts_with(b"ring:") => {
                    pipe.cmd("LRANGE").arg(key).arg(0).arg(-1)
                }
                _ if name.starts_with(b"s:") || name.starts_with(b"run:") => pipe.cmd("HGETALL").arg(key),
                _ => pipe.cmd("TYPE").arg(key),
            };
        }
        let values: Vec<Value> = if keys.is_empty() { Vec::new() } else { rig.pipe(&pipe).await };
        let mut snapshot = Self::default();
        for (name, value) in names.iter().zip(&values) {
            snapshot.read(name, value);
        }
        snapshot
    }

    fn read(&mut self, name: &[u8], value: &Value) {
        match name {
            b"jobs" => self.jobs = map(value),
            b"mut" => self.mutable = map(value),
            b"err" => self.errors = map(value).into_keys().collect(),
            b"act" => self.active = map(value).into_keys().collect(),
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
            b"meta" | b"clock" => {}
            _ => {
                if let Some(lane) = name.strip_prefix(b"l:") {
                    let members = list(value);
                    for member in &members {
                        self.put(member.clone(), Place::Lane);
                    }
                    self.lanes.insert(lane.to_vec(), members);
                } else if let Some(band) = name.strip_prefix(b"ring:") {
                    self.rings[usize::from(band[0] - b'0')] = list(value);
                } else if let Some(sid) = name.strip_prefix(b"s:") {
                    let fields = map(value).iter().map(|(k, v)| (text(k), String::from_utf8_lossy(v).into())).collect();
                    self.sessions.insert(text(sid), fields);
                } else if let Some(sid) = name.strip_prefix(b"run:") {
                    for (member, entry) in map(value) {
                        let claim_no = u64::from_be_bytes(*entry.first_chunk().unwrap());
                        let place = Place::Running { sid: text(sid), claim_no, suspect: entry[14] & 128 != 0 };
                        self.put(member, place);
                    }
                } else {
                    let known = name.starts_with(b"r:") || name.starts_with(b"i:");
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
        for member in self.mutable.keys().chain(&self.errors) {
            assert!(self.jobs.contains_key(member), "a leftover of {member:02x?}");
        }
        self.check_lanes();
        self.check_unique();
        self.check_sessions();
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
        let full: BTreeSet<Bytes> = self.lanes.keys().cloned().collect();
        assert_eq!(ringed, full, "the rings have exactly the lanes that have jobs");
        assert_eq!(self.active, full, "act has exactly the lanes that have jobs");
        for (lane, members) in &self.lanes {
            for member in members {
                assert_eq!(lane_of(&self.jobs[member]), &**lane, "a job in a foreign lane");
            }
        }
    }

    fn check_unique(&self) {
        let mut expected = BTreeMap::new();
        for (member, envelope) in &self.jobs {
            if envelope[13] & 2 != 0 {
                let at = 16 + usize::from(envelope[14]);
                let twice = expected.insert(envelope[at..at + 16].to_vec(), member.clone());
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
        assert_eq!(counts.oldest_ready.is_some(), counts.ready > 0, "the age of the oldest");
    }
}

fn lane_of(envelope: &[u8]) -> &[u8] {
    &envelope[16..16 + usize::from(envelope[14])]
}
