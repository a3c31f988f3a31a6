//! Two commands of Redis' protocol: this crate has no Redis client, and the queue's offers no way to lose everything.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends a command that is answered with `+OK`.
pub(crate) async fn send(url: &str, command: &str) {
    let (password, address) = url
        .strip_prefix("redis://:")
        .and_then(|rest| rest.strip_suffix("/0"))
        .and_then(|rest| rest.split_once('@'))
        .expect("the address of a private Redis");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("AUTH {password}\r\n{command}\r\n").as_bytes()).await.unwrap();
    let mut answers = [0; 10];
    stream.read_exact(&mut answers).await.unwrap();
    assert_eq!(&answers, b"+OK\r\n+OK\r\n", "{command}");
}
