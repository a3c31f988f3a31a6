#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::*;
use crate::{Catalog, Decision, JobArgs, Policy, QueueName, catalog::KindInfo, job::InvalidJob};

#[derive(Serialize, Deserialize)]
struct Secret {
    card: String,
}

impl JobArgs for Secret {
    const KIND: Kind = Kind::from_static("test.secret");
    const QUEUE: QueueName = QueueName::from_static("test");
    const POLICY: Policy = Policy::DEFAULT.encrypted();
}

#[derive(Serialize, Deserialize)]
struct Open {
    card: String,
}

impl JobArgs for Open {
    const KIND: Kind = Kind::from_static("test.open");
    const QUEUE: QueueName = QueueName::from_static("test");
}

const CARD: &str = "4111 1111";
const PLAIN: &str = r#"{"card":"4111 1111"}"#;
/// 1 to 32, and 33 to 64.
const KEY_A: &str = "2026a:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
const KEY_B: &str = "2026b:ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=";

fn vault(keys: &[&str]) -> Vault {
    Vault::new(&Config { keys: keys.iter().map(|key| (*key).to_owned()).collect(), ..Config::default() }).unwrap()
}

fn acme() -> Tenant {
    Tenant::new("acme").unwrap()
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn secret() -> NewJob {
    NewJob::new(&Secret { card: CARD.into() }).unwrap().tenant(acme())
}

fn sealed(vault: &Vault) -> NewJob {
    let mut job = secret();
    vault.seal(&mut job).unwrap();
    job
}

fn open(vault: &Vault, tenant: Option<&Tenant>, args: &RawValue) -> Result<String, VaultError> {
    vault.open_args(true, &Secret::KIND, tenant, args.to_owned()).map(|plain| plain.get().to_owned())
}

/// Made by another implementation (OpenSSL's ChaCha20-Poly1305 under an HChaCha20 of its own), with the nonce 64 to 87.
#[test]
fn texts_of_format_1_stay_what_they_are_and_stay_readable() {
    let vault = vault(&[KEY_A]);
    let golden = [
        (Purpose::Args, "test.secret", Some(acme()), "BWgNH7S_-UMeRVY9NpxANv0fK5Ld"),
        (Purpose::Args, "test.secret", None, "BWgNH7S34zUyR1J0Dczkw782-GZb"),
        (Purpose::Checkpoint, "test.secret", Some(acme()), "BWgNH7R13B-UmGIGBxy1uNJ57Pjg"),
        (Purpose::Callback, "test", None, "BWgNH7SeVaPlX0mxkrqHvrS2pYyq"),
    ];
    let nonce = std::array::from_fn(|i| u8::try_from(64 + i).unwrap());
    for (purpose, scope, tenant, end) in golden {
        let text = format!(r#"{{"$sealed":"2026a.QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXdC9XkqWSojagR_SwmJF3{end}"}}"#);
        let with = authenticated(purpose, scope, tenant.as_ref());
        assert_eq!(super::seal(&vault.keys[0], nonce, &with, &raw(PLAIN)).get(), text);
        assert_eq!(vault.open(&with, &raw(&text)).unwrap().unwrap().get(), PLAIN);
    }
}

#[test]
fn a_sealed_job_carries_nothing_plain_and_opens_as_it_was() {
    let vault = vault(&[KEY_A]);
    let job = sealed(&vault);
    assert!(job.args.get().starts_with(r#"{"$sealed":"2026a."#) && !job.args.get().contains("4111"));
    assert_eq!(open(&vault, Some(&acme()), &job.args).unwrap(), PLAIN);
    // As jsonb prints it.
    assert_eq!(open(&vault, Some(&acme()), &raw(&job.args.get().replace(':', ": "))).unwrap(), PLAIN);
    assert_ne!(job.args.get(), sealed(&vault).args.get(), "each has a nonce of its own");
    // Sealing is done once.
    let mut again = job.clone();
    vault.seal(&mut again).unwrap();
    assert_eq!(again.args.get(), job.args.get());
}

#[test]
fn whatever_byte_of_a_sealed_text_is_changed_it_does_not_open() {
    let vault = vault(&[KEY_A]);
    let text = sealed(&vault).args.get().to_owned();
    let body = text.find('.').unwrap() + 1;
    for at in body..text.len() - 2 {
        for other in [b'A', b'B', b'_', b'=', b'.'] {
            let mut changed = text.clone().into_bytes();
            if changed[at] == other {
                continue;
            }
            changed[at] = other;
            let changed = raw(std::str::from_utf8(&changed).unwrap());
            let error = open(&vault, Some(&acme()), &changed).unwrap_err();
            assert_eq!(error, VaultError::Damaged { id: "2026a".into() }, "byte {at} as {}", char::from(other));
        }
    }
    for end in body..text.len() - 2 {
        assert!(open(&vault, Some(&acme()), &raw(&format!("{}\"}}", &text[..end]))).is_err(), "cut at {end}");
    }
    for broken in [r#"{"$sealed":""}"#, r#"{"$sealed":"2026a"}"#, r#"{"$sealed":"2026a."}"#, r#"{"$sealed":".AAAA"}"#] {
        assert!(matches!(open(&vault, Some(&acme()), &raw(broken)), Err(VaultError::Damaged { .. })), "{broken}");
        assert!(vault.knows_key_of(&raw(broken)).is_ok(), "nothing to wait for: {broken}");
    }
}

#[test]
fn a_sealed_text_opens_for_its_kind_its_tenant_and_its_purpose_only() {
    let vault = vault(&[KEY_A]);
    let args = sealed(&vault).args;
    let (acme, other) = (acme(), Tenant::new("acm").unwrap());
    let open = |purpose, kind: &Kind, tenant: Option<&Tenant>| vault.open_value(purpose, kind, tenant, &args);
    assert!(open(Purpose::Args, &Secret::KIND, Some(&acme)).is_ok());
    let damaged = Err(VaultError::Damaged { id: "2026a".into() });
    let outcome =
        |opened: Result<Option<Box<RawValue>>, VaultError>| opened.map(|plain| plain.unwrap().get().to_owned());
    assert_eq!(outcome(open(Purpose::Args, &Secret::KIND, Some(&other))), damaged);
    assert_eq!(outcome(open(Purpose::Args, &Secret::KIND, None)), damaged);
    assert_eq!(outcome(open(Purpose::Args, &Kind::from_static("test.secre"), Some(&acme))), damaged);
    assert_eq!(outcome(open(Purpose::Checkpoint, &Secret::KIND, Some(&acme))), damaged);
    assert_eq!(outcome(open(Purpose::Callback, &Secret::KIND, Some(&acme))), damaged);
    // Names that run together are not taken for each other.
    let text =
        vault.seal_value(Purpose::Args, &Kind::from_static("test.a"), Some(&Tenant::new("b").unwrap()), &raw("1"));
    let text = text.unwrap();
    assert!(vault.open_value(Purpose::Args, &Kind::from_static("test.ab"), None, &text).is_err());
}

#[test]
fn the_first_key_seals_and_every_key_opens() {
    let (before, after) = (vault(&[KEY_A]), vault(&[KEY_B, KEY_A]));
    let old = sealed(&before).args;
    let new = sealed(&after).args;
    assert!(new.get().contains("2026b."));
    assert_eq!(open(&after, Some(&acme()), &old).unwrap(), PLAIN);
    assert_eq!(open(&after, Some(&acme()), &new).unwrap(), PLAIN);
    // Taken out too early, or not yet there: to be waited for, not a fault of the job.
    let unknown = VaultError::UnknownKey { id: "2026b".into() };
    assert_eq!(before.knows_key_of(&new), Err(unknown.clone()));
    assert!(before.knows_key_of(&old).is_ok() && before.knows_key_of(&raw(PLAIN)).is_ok());
    assert_eq!(open(&before, Some(&acme()), &new), Err(unknown.clone()));
    assert!(matches!(JobError::from(unknown).decision(), Decision::Snooze(_)));
    // Another key under the same id.
    let false_key = vault(&[&KEY_B.replace("2026b", "2026a")]);
    let error = open(&false_key, Some(&acme()), &old).unwrap_err();
    assert_eq!(error, VaultError::Damaged { id: "2026a".into() });
    assert_eq!(JobError::from(error).decision(), Decision::Bury);
}

#[test]
fn no_store_is_given_the_plain_args_of_an_encrypted_kind() {
    let (none, vault) = (Vault::default(), vault(&[KEY_A]));
    let job = secret();
    let unsealed = VaultError::Unsealed { kind: Secret::KIND };
    assert_eq!(job.stored_args().unwrap_err(), unsealed);
    assert_eq!(none.stored(&job).err(), Some(VaultError::NoKey { kind: Secret::KIND }));
    assert!(!vault.stored(&job).unwrap().get().contains("4111"));
    assert!(none.seal_all(std::slice::from_ref(&job)).is_err());
    let all = [NewJob::new(&Open { card: CARD.into() }).unwrap(), job];
    let all = vault.seal_all(&all).unwrap();
    assert!(all.iter().all(|job| job.stored_args().is_ok()));
    assert_eq!((all[0].args.get(), all[1].args.get().contains("4111")), (PLAIN, false));

    // What is changed afterwards was not sealed.
    let good = sealed(&vault);
    assert!(good.stored_args().is_ok() && none.stored(&good).is_ok());
    let moved = good.clone().tenant(Tenant::new("other").unwrap());
    let changed = NewJob { args: raw(PLAIN), ..good.clone() };
    let foreign = NewJob { args: raw(r#"{"$sealed":"2026a.AAAA"}"#), ..good };
    for job in [moved, changed, foreign] {
        assert_eq!(job.stored_args().unwrap_err(), unsealed);
    }
}

#[test]
fn args_that_only_look_sealed_are_refused_for_encrypted_kinds_and_mean_nothing_to_others() {
    let vault = vault(&[KEY_A]);
    let false_one = r#"{ "$sealed" : "2026a.AAAA" }"#;
    assert!(matches!(NewJob::of_kind(&KindInfo::of::<Secret>(), raw(false_one)), Err(InvalidJob::LooksSealed { .. })));
    let job = NewJob::of_kind(&KindInfo::of::<Open>(), raw(false_one)).unwrap();
    for text in [false_one, r#"{"$sealed":"2026a.AAAA"}"#, r#"{"$sealed":"other.AAAA"}"#, r#"{"$sealed":7}"#] {
        let opened = vault.open_args(false, &Open::KIND, None, raw(text)).unwrap();
        assert_eq!(opened.get(), text);
    }
    assert_eq!(vault.stored(&job).unwrap().get(), false_one);
}

#[test]
fn encryption_is_turned_on_and_off_while_jobs_wait() {
    let vault = vault(&[KEY_A]);
    assert_eq!(open(&vault, Some(&acme()), &raw(PLAIN)).unwrap(), PLAIN, "enqueued before it was turned on");
    let job = sealed(&vault);
    let opened = vault.open_args(false, &Secret::KIND, Some(&acme()), job.args).unwrap();
    assert_eq!(opened.get(), PLAIN, "enqueued before it was turned off");
}

#[test]
fn what_calls_back_is_sealed_for_its_queue_if_any_of_its_kinds_is_encrypted() {
    let (vault, payload) = (vault(&[KEY_A]), raw(PLAIN));
    let elsewhere = QueueName::from_static("elsewhere");
    let catalog = Catalog::default().with::<Secret>().with::<Open>();
    assert!(catalog.stored_callback(&Secret::QUEUE, &payload).is_err(), "there is no key");
    let catalog = catalog.with_vault(vault.clone());
    assert_eq!(catalog.stored_callback(&elsewhere, &payload).unwrap().get(), PLAIN);
    let stored = catalog.stored_callback(&Secret::QUEUE, &payload).unwrap().into_owned();
    assert!(stored.get().contains("2026a.") && !stored.get().contains("4111"));
    let open = |vault: &Vault, encrypted, queue: &QueueName, text: &RawValue| {
        vault.open_callback(encrypted, queue, text.to_owned()).map(|plain| plain.get().to_owned())
    };
    for encrypted in [true, false] {
        assert_eq!(open(&vault, encrypted, &Secret::QUEUE, &stored).unwrap(), PLAIN);
        assert_eq!(open(&vault, encrypted, &Secret::QUEUE, &payload).unwrap(), PLAIN, "it came before there were keys");
    }
    assert!(matches!(open(&vault, true, &elsewhere, &stored), Err(VaultError::Damaged { .. })));
    assert!(matches!(open(&Vault::default(), true, &Secret::QUEUE, &stored), Err(VaultError::UnknownKey { .. })));
}

#[test]
fn of_sealed_args_only_the_key_s_id_is_shown() {
    let job = sealed(&vault(&[KEY_A]));
    assert_eq!(shown(job.args.clone()).get(), r#"{"$sealed":"2026a"}"#);
    let mut value: serde_json::Value = serde_json::from_str(job.args.get()).unwrap();
    shown_value(&mut value);
    assert_eq!(value, serde_json::json!({ "$sealed": "2026a" }));
    for text in [r#"{"$sealed":"a b.c"}"#, r#"{"$sealed":"4111"}"#, r#"{"$sealed":"4111 1111.x"}"#] {
        assert_eq!(shown(raw(text)).get(), r#"{"$sealed":"?"}"#);
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        shown_value(&mut value);
        assert_eq!(value, serde_json::json!({ "$sealed": "?" }));
    }
    for text in [PLAIN, r#"{"$sealed":"a.b","x":1}"#, "7", r#"{"$sealed":7}"#] {
        assert_eq!(shown(raw(text)).get(), text);
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        shown_value(&mut value);
        assert_eq!(value, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }
}

#[test]
fn keys_that_are_none_are_refused_with_their_place_and_never_shown() {
    let same = KEY_A.replace("2026a", "other");
    let zeroes = format!("z:{}=", "A".repeat(43));
    let cases: [(&[&str], &str); 9] = [
        (&[KEY_A, "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="], "key number 2 is not an id, a colon"),
        (&["a b:AQID"], "key number 1: the id of a key has 1 to 32 letters"),
        (&[":AQID"], "key number 1: the id of a key"),
        (&["x:?secret?"], "key x: what follows the colon is not base64"),
        (&["x:AQID"], "key x has 3 bytes, not 32"),
        (&["x:"], "key x has 0 bytes, not 32"),
        (&[&zeroes], "key z is all zeroes"),
        (&[KEY_A, &KEY_B.replace("2026b", "2026a")], "two keys have the id 2026a"),
        (&[KEY_A, &same], "keys 2026a and other are the same key"),
    ];
    for (keys, words) in cases {
        let config = Config { keys: keys.iter().map(|key| (*key).to_owned()).collect(), ..Config::default() };
        let error = Vault::new(&config).unwrap_err().to_string();
        assert!(error.starts_with("encryption.keys: ") && error.contains(words), "{error}");
        for key in keys {
            let bytes = key.split_once(':').map_or(*key, |(_, bytes)| bytes);
            assert!(bytes.len() < 4 || !error.contains(&bytes[..4]), "{error}");
        }
    }
}

#[test]
fn keys_come_from_a_file_too() {
    let folder = std::env::temp_dir().join(format!("windrow-vault-{}", rand::random::<u64>()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("keys");
    let config =
        |keys: &[&str]| Config { keys: keys.iter().map(|key| (*key).to_owned()).collect(), keys_file: path.clone() };
    let refusal = |keys: &[&str]| Vault::new(&config(keys)).unwrap_err().to_string();
    assert!(refusal(&[]).starts_with("encryption.keys_file: cannot read "));
    std::fs::write(&path, format!("# the newest first\n{KEY_B}\n\n  {KEY_A}  \n")).unwrap();
    let ids: Vec<String> = Vault::new(&config(&[])).unwrap().key_ids().map(ToString::to_string).collect();
    assert_eq!(ids, ["2026b", "2026a"]);
    assert!(refusal(&[KEY_A]).contains("encryption.keys is set as well"));
    std::fs::write(&path, "# none\n").unwrap();
    assert!(refusal(&[]).contains("has no key"));
    std::fs::write(&path, "x:AQID\n").unwrap();
    assert!(refusal(&[]).contains("key x has 3 bytes"));
    std::fs::write(&path, "#".repeat(70_000)).unwrap();
    assert!(refusal(&[]).contains("it is no file of keys"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn nothing_that_is_printed_has_a_key_or_args_in_it() {
    let config = Config { keys: vec![KEY_A.into()], keys_file: PathBuf::new() };
    let vault = Vault::new(&config).unwrap();
    let made = NewKey::generate(None, &mut StdRng::seed_from_u64(7));
    let printed = format!("{config:?} {vault:?} {:?} {:?} {made:?}", secret(), sealed(&vault));
    for secret in ["AQID", "4111", made.line.split_once(':').unwrap().1] {
        assert!(!printed.contains(secret), "{printed}");
    }
    assert!(printed.contains("2026a"));
}

#[test]
fn a_new_key_is_one_that_the_settings_take() {
    let mut random = StdRng::seed_from_u64(7);
    let (one, other) = (NewKey::generate(None, &mut random), NewKey::generate(None, &mut random));
    assert_ne!(one.line, other.line);
    let named = NewKey::generate(Some(KeyId::new("2027").unwrap()), &mut random);
    assert!(named.line.starts_with("2027:"));
    let vault = vault(&[&one.line, &other.line, &named.line]);
    assert_eq!(vault.key_ids().count(), 3);
    assert_eq!(open(&vault, Some(&acme()), &sealed(&vault).args).unwrap(), PLAIN);
}

#[test]
fn args_of_the_largest_size_are_sealed_and_opened() {
    let vault = vault(&[KEY_A]);
    let card = "x".repeat(crate::job::MAX_ARGS_BYTES - r#"{"card":""}"#.len());
    let mut job = NewJob::new(&Secret { card: card.clone() }).unwrap();
    vault.seal(&mut job).unwrap();
    assert!(job.args.get().len() > crate::job::MAX_ARGS_BYTES);
    assert!(open(&vault, None, &job.args).unwrap().contains(&card));
}
