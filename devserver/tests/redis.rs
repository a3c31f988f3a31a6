//! A private Redis does what is promised of it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::wait_until;
use windrow_devserver::{Error, RedisOptions, RedisServer, shared_redis};

/// Sends inline commands after the password and returns everything that was answered before QUIT's `+OK`.
fn ask(server: &RedisServer, commands: &str) -> String {
    let url = server.url();
    let password = url.strip_prefix("redis://:").unwrap().split('@').next().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("AUTH {password}\r\n{commands}\r\nQUIT\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.strip_prefix("+OK\r\n").unwrap().strip_suffix("+OK\r\n").unwrap().to_owned()
}

fn with_aof() -> RedisServer {
    RedisServer::start(RedisOptions { aof: true, ..RedisOptions::default() }).unwrap()
}

#[test]
fn it_starts_on_its_own_port_with_noeviction_and_a_password() {
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    assert_ne!(server.port(), 6379);
    assert_eq!(ask(&server, "CONFIG GET maxmemory-policy"), "*2\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n");
    assert_eq!(ask(&server, "CONFIG GET appendonly"), "*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n");

    let mut stranger = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stranger.write_all(b"GET x\r\nQUIT\r\n").unwrap();
    let mut answer = String::new();
    stranger.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("-NOAUTH"), "{answer}");
}

#[test]
fn with_aof_a_stop_and_a_restart_keep_port_and_data() {
    let server = with_aof();
    let (port, url) = (server.port(), server.url());
    assert_eq!(ask(&server, "SET kept yes"), "+OK\r\n");
    server.stop().unwrap();
    assert_eq!(server.pid(), None);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it is gone");
    server.stop().unwrap();
    server.restart().unwrap();
    assert_eq!((server.port(), server.url()), (port, url));
    assert_eq!(ask(&server, "GET kept"), "$3\r\nyes\r\n");
}

#[test]
fn with_aof_what_was_flushed_survives_a_kill() {
    let server = with_aof();
    assert_eq!(ask(&server, "SET kept yes"), "+OK\r\n");
    // WAITAOF came with 7.2; the write itself precedes the answer, and SIGKILL spares the kernel's buffers.
    server.kill().unwrap();
    assert_eq!(server.pid(), None);
    server.kill().unwrap();
    server.restart().unwrap();
    assert_eq!(ask(&server, "GET kept"), "$3\r\nyes\r\n");
}

#[test]
fn a_paused_server_keeps_connections_and_answers_after_it_is_resumed() {
    let server = with_aof();
    server.pause().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(stream.read(&mut [0; 16]).is_err(), "a paused server answers nothing");
    server.resume().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(stream.read(&mut [0; 16]).unwrap() > 0);
}

#[test]
fn a_paused_server_can_be_stopped_and_dropped() {
    let server = with_aof();
    server.pause().unwrap();
    server.stop().unwrap();
    server.restart().unwrap();
    server.pause().unwrap();
    let pid = server.pid().unwrap();
    drop(server);
    assert!(!support::is_running(pid));
}

#[test]
fn two_at_once_do_not_know_each_other() {
    let (one, two) = (with_aof(), with_aof());
    assert_ne!(one.port(), two.port());
    assert_ne!(one.url().split('@').next(), two.url().split('@').next());
    assert_eq!(ask(&one, "SET mine 1"), "+OK\r\n");
    assert_eq!(ask(&two, "EXISTS mine"), ":0\r\n");
}

#[test]
fn dropping_it_ends_the_process_and_removes_the_folder() {
    let server = with_aof();
    let (pid, dir) = (server.pid().unwrap(), server.dir().to_owned());
    assert!(dir.join("server.log").exists());
    drop(server);
    assert!(!support::is_running(pid));
    assert!(!dir.exists());
}

#[test]
fn a_given_folder_is_kept_and_used_again_but_never_by_two_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = RedisOptions { dir: Some(folder.path().to_owned()), aof: true, ..RedisOptions::default() };
    let server = RedisServer::start(options.clone()).unwrap();
    assert_eq!(ask(&server, "SET kept yes"), "+OK\r\n");
    let second = RedisServer::start(options.clone()).unwrap_err();
    assert!(matches!(second, Error::FolderInUse { .. }), "{second}");
    drop(server);
    let server = RedisServer::start(options).unwrap();
    assert_eq!(ask(&server, "GET kept"), "$3\r\nyes\r\n");
}

#[test]
fn settings_reach_the_server_and_a_bad_one_is_reported_with_its_log() {
    let options = |name: &str, value: &str| RedisOptions {
        settings: vec![(name.to_owned(), value.to_owned())],
        ..RedisOptions::default()
    };
    let server = RedisServer::start(options("maxmemory", "32mb")).unwrap();
    assert_eq!(ask(&server, "CONFIG GET maxmemory"), "*2\r\n$9\r\nmaxmemory\r\n$8\r\n33554432\r\n");

    let error = RedisServer::start(options("maxmemory-policy", "forget-everything")).unwrap_err().to_string();
    assert!(error.contains("before it was ready") && error.contains("forget-everything"), "{error}");

    let error = RedisServer::start(options("maxmemory", "1\nport 6379")).unwrap_err();
    assert!(matches!(error, Error::Setting(_)), "{error}");
}

#[test]
fn a_port_in_use_is_an_error_when_it_was_asked_for() {
    let first = with_aof();
    let options = RedisOptions { port: Some(first.port()), ..RedisOptions::default() };
    let error = RedisServer::start(options).unwrap_err().to_string();
    assert!(error.contains("Address already in use"), "{error}");
    assert_eq!(ask(&first, "PING"), "+PONG\r\n");
}

#[test]
fn the_shared_server_is_one_for_all_threads() {
    let urls: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| shared_redis().unwrap().url())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(urls.iter().all(|url| *url == urls[0]));
    // It outlives the thread that started it.
    assert_eq!(ask(shared_redis().unwrap(), "PING"), "+PONG\r\n");
}

#[test]
fn it_ends_and_its_folder_goes_when_the_process_that_started_it_is_killed() {
    let mut holder = support::spawn_self("holder_of_a_redis");
    let (pid, dir) = support::read_pid_and_dir(&mut holder);
    assert!(support::is_running(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(wait_until(Duration::from_secs(10), || !support::is_running(pid)), "the server outlived its owner");
    assert!(wait_until(Duration::from_secs(10), || !dir.exists()), "{} was left behind", dir.display());
}

/// Not a test of its own: the process that the one above starts and kills.
#[test]
fn holder_of_a_redis() {
    if support::is_spawned() {
        let server = shared_redis().unwrap();
        support::tell_and_wait(server.pid().unwrap(), server.dir());
    }
}

#[test]
fn a_program_named_in_the_environment_that_is_none_is_reported_by_variable_and_path() {
    let mut holder = support::command_for_self("holder_of_a_redis")
        .env("WINDROW_REDIS_SERVER", "/nowhere/redis-server")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = String::new();
    holder.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(!holder.wait().unwrap().success());
    assert!(errors.contains("WINDROW_REDIS_SERVER") && errors.contains("/nowhere/redis-server"), "{errors}");
}
