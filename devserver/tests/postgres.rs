//! A private PostgreSQL does what is promised of it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use support::wait_until;
use windrow_devserver::{
    Error, PostgresOptions, PostgresServer, find, fresh_database, fresh_database_from, shared_postgres,
};

fn psql(url: &str, sql: &str) -> Command {
    let mut command = Command::new(find::postgres().unwrap().psql);
    command.args(["--no-psqlrc", "-qAt", "-c", sql]).arg(url).stdin(Stdio::null());
    command
}

fn query(url: &str, sql: &str) -> String {
    let output = psql(url, sql).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn start() -> PostgresServer {
    PostgresServer::start(PostgresOptions::default()).unwrap()
}

#[test]
fn its_data_survives_stop_and_kill_and_restart_on_the_same_port() {
    let server = start();
    let port = server.port();
    assert_ne!(port, 5432);
    let url = server.create_database("kept").unwrap();
    assert_eq!(query(&url, "SHOW fsync"), "on");
    query(&url, "CREATE TABLE fact (n int); INSERT INTO fact VALUES (1)");

    server.stop().unwrap();
    assert_eq!(server.pid(), None);
    server.restart().unwrap();
    query(&url, "INSERT INTO fact VALUES (2)");

    // A connection with a query in hand must not keep the killed server's memory and with it the restart.
    let mut busy = psql(&url, "SELECT pg_sleep(60)").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
    assert!(wait_until(Duration::from_secs(10), || query(&url, sleeping) == "1"));
    server.kill().unwrap();
    assert!(!busy.wait().unwrap().success());
    assert_eq!(server.pid(), None);
    server.restart().unwrap();
    assert_eq!(server.port(), port);
    assert_eq!(query(&url, "SELECT sum(n) FROM fact"), "3");
}

#[test]
fn a_paused_server_holds_its_connections_too_until_it_is_resumed() {
    let server = start();
    let url = server.url("postgres");
    query(&url, "CREATE TABLE beat (at timestamptz)");
    let beat = "DO $$ BEGIN LOOP INSERT INTO beat VALUES (clock_timestamp()); COMMIT; PERFORM pg_sleep(0.01); END LOOP; END $$";
    let mut busy = psql(&url, beat).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_until(Duration::from_secs(10), || query(&url, "SELECT count(*) > 3 FROM beat") == "t"));

    server.pause().unwrap();
    let mut asking = psql(&url, "SELECT 1").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(!wait_until(Duration::from_millis(500), || asking.try_wait().unwrap().is_some()), "it answered");
    server.resume().unwrap();
    assert!(asking.wait().unwrap().success());

    let gap =
        "SELECT max(gap) > interval '0.4 s' FROM (SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM beat) AS gaps";
    assert!(wait_until(Duration::from_secs(10), || query(&url, gap) == "t"), "the open connection was not paused");
    busy.kill().unwrap();
    busy.wait().unwrap();

    server.pause().unwrap();
    let pid = server.pid().unwrap();
    drop(server);
    assert!(!support::is_running(pid), "a paused server can be dropped");
}

#[test]
fn two_at_once_do_not_know_each_other_and_dropping_one_leaves_the_other() {
    let (one, two) = (start(), start());
    assert_ne!(one.port(), two.port());
    one.create_database("only_here").unwrap();
    let count = "SELECT count(*) FROM pg_database WHERE datname = 'only_here'";
    assert_eq!(query(&two.url("postgres"), count), "0");
    let crossed = one.url_through(two.port(), "postgres");
    assert!(!psql(&crossed, "SELECT 1").output().unwrap().status.success(), "the password of one opens the other");

    let (pid, dir) = (one.pid().unwrap(), one.dir().to_owned());
    drop(one);
    assert!(!support::is_running(pid));
    assert!(!dir.exists());
    assert_eq!(query(&two.url("postgres"), "SELECT 1"), "1");
}

#[test]
fn a_given_folder_is_kept_and_used_again_but_never_by_two_at_once() {
    let folder = tempfile::Builder::new().prefix("windrow-kept-").tempdir().unwrap();
    let options = PostgresOptions { dir: Some(folder.path().join("pg")), fast: true, ..PostgresOptions::default() };
    let server = PostgresServer::start(options.clone());
    if let Err(Error::Unreachable { blocked, user }) = &server {
        // The temporary folder's default mode (0700) shuts out the account that root's PostgreSQL runs under.
        assert_eq!((blocked.as_path(), user.is_empty()), (folder.path(), false));
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open).unwrap();
    }
    let server = server.or_else(|_| PostgresServer::start(options.clone())).unwrap();
    query(&server.url("postgres"), "CREATE TABLE kept ()");
    let second = PostgresServer::start(options.clone()).unwrap_err();
    assert!(matches!(second, Error::FolderInUse { .. }), "{second}");
    drop(server);
    let server = PostgresServer::start(options.clone()).unwrap();
    assert_eq!(query(&server.url("postgres"), "SELECT count(*) FROM kept"), "0");
    drop(server);

    std::fs::write(folder.path().join("pg/data/PG_VERSION"), "9\n").unwrap();
    let error = PostgresServer::start(options).unwrap_err();
    assert!(matches!(&error, Error::DataVersion { found, .. } if found == "9"), "{error}");
}

#[test]
fn a_bad_setting_is_reported_with_the_servers_log() {
    let options = PostgresOptions {
        fast: true,
        settings: vec![("shared_buffers".to_owned(), "much".to_owned())],
        ..PostgresOptions::default()
    };
    let error = PostgresServer::start(options).unwrap_err().to_string();
    assert!(error.contains("before it was ready") && error.contains("shared_buffers"), "{error}");
}

#[test]
fn fresh_databases_are_empty_and_apart_and_can_be_copied_from_a_template() {
    let (one, two) = (fresh_database().unwrap(), fresh_database().unwrap());
    assert_ne!(one, two);
    query(&one, "CREATE TABLE mine ()");
    assert_eq!(query(&two, "SELECT to_regclass('mine') IS NULL"), "t");

    let server = shared_postgres().unwrap();
    let template = server.create_database("template_with_fact").unwrap();
    query(&template, "CREATE TABLE fact AS SELECT 42 AS n");
    let copy = fresh_database_from("template_with_fact").unwrap();
    assert_eq!(query(&copy, "SELECT n FROM fact"), "42");

    // Tests ask for theirs at the same time.
    let copies: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| fresh_database_from("template_with_fact").unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(copies.iter().all(|copy| query(copy, "SELECT n FROM fact") == "42"));

    server.drop_database("template_with_fact").unwrap();
    server.drop_database("template_with_fact").unwrap();
    let error = fresh_database_from("template_with_fact").unwrap_err();
    assert!(matches!(&error, Error::Tool { output, .. } if output.contains("does not exist")), "{error}");
    let error = server.create_database("x; DROP DATABASE postgres").unwrap_err();
    assert!(matches!(error, Error::DatabaseName(_)), "{error}");
}

#[test]
fn it_ends_and_its_folder_goes_when_the_process_that_started_it_is_killed() {
    let mut holder = support::spawn_self("holder_of_a_postgres");
    let (pid, dir) = support::read_pid_and_dir(&mut holder);
    assert!(support::is_running(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(wait_until(Duration::from_secs(20), || !support::is_running(pid)), "the server outlived its owner");
    assert!(wait_until(Duration::from_secs(10), || !dir.exists()), "{} was left behind", dir.display());
}

/// Not a test of its own: the process that the one above starts and kills.
#[test]
fn holder_of_a_postgres() {
    if support::is_spawned() {
        let server = shared_postgres().unwrap();
        support::tell_and_wait(server.pid().unwrap(), server.dir());
    }
}
