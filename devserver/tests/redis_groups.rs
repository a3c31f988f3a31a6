//! A private Sentinel group fails over, and a private cluster moves its slots.
#![allow(clippy::unwrap_used, reason = "tests")]

use windrow_devserver::{ClusterOptions, Error, RedisCluster, Reply, SentinelGroup, SentinelOptions};

fn text(text: &str) -> Reply {
    Reply::Text(text.as_bytes().to_vec())
}

#[test]
fn the_replica_becomes_the_master_when_that_is_killed_and_takes_it_back_as_a_replica() {
    let group = SentinelGroup::start(&SentinelOptions::default()).unwrap();
    let first = group.master().unwrap();
    assert_eq!(first.port(), group.servers()[0].port());
    assert_eq!(first.command(&["SET", "kept", "yes"]).unwrap(), text("OK"));
    assert_eq!(first.command(&["WAIT", "1", "5000"]).unwrap(), Reply::Number(1));
    first.kill().unwrap();
    let second = group.until_failed_over(first).unwrap();
    assert_ne!(second.port(), first.port());
    assert_eq!(second.command(&["GET", "kept"]).unwrap(), text("yes"));
    assert_eq!(second.command(&["SET", "more", "yes"]).unwrap(), text("OK"));
    first.restart().unwrap();
    group.settled(1).unwrap();
    assert_eq!(group.master().unwrap().port(), second.port());
    let stranger = group.sentinels()[0].command(&["SENTINEL", "MASTER", "other"]);
    assert!(matches!(stranger, Err(Error::Refused { .. })), "{stranger:?}");
}

#[test]
fn a_slot_moves_with_all_its_keys_and_every_node_learns_of_it() {
    let cluster = RedisCluster::start(&ClusterOptions::default()).unwrap();
    let slot = cluster.slot_of("{a}0").unwrap();
    let from = cluster.owner(slot).unwrap();
    let to = cluster.nodes().iter().find(|node| node.port() != from.port()).unwrap();
    for n in 0..20 {
        assert_eq!(from.command(&["SET", &format!("{{a}}{n}"), "x"]).unwrap(), text("OK"));
    }
    cluster.begin_move(slot, from, to).unwrap();
    assert_eq!(cluster.move_keys(slot, from, to, 7).unwrap(), 13);
    assert_eq!(cluster.move_keys(slot, from, to, 100).unwrap(), 0);
    cluster.finish_move(slot, to).unwrap();
    assert_eq!(cluster.owner(slot).unwrap().port(), to.port());
    assert_eq!(to.command(&["GET", "{a}19"]).unwrap(), text("x"));
    for node in cluster.nodes().iter().filter(|node| node.port() != to.port()) {
        match node.command(&["GET", "{a}19"]) {
            Err(Error::Refused { answer, .. }) => assert_eq!(answer, format!("MOVED {slot} 127.0.0.1:{}", to.port())),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_replica_in_a_cluster_takes_over_for_its_master() {
    let cluster = RedisCluster::start(&ClusterOptions { replicas: 1, ..ClusterOptions::default() }).unwrap();
    let master = cluster.owner(0).unwrap();
    master.kill().unwrap();
    let successor = cluster.until_taken_over(0, master).unwrap();
    assert_ne!(successor.port(), master.port());
}
