//! How connections end: announced, cut off, or with an alert.
use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{own_client, own_pair, own_server, provider, record};
use crate::RecordError;
use crate::record::content;

const WIRE: usize = 1 << 20;

fn reason(error: &std::io::Error) -> RecordError {
    *error.get_ref().and_then(|inner| inner.downcast_ref::<RecordError>()).unwrap()
}

/// The first one sends and ends, the second one answers what it got, then ends.
async fn half_way<A, B>(mut first: A, mut second: B)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let data = vec![7; 300_000];
    let ask = async {
        first.write_all(&data).await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(first.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        let mut answer = Vec::new();
        first.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = async {
        let mut asked = Vec::new();
        second.read_to_end(&mut asked).await.unwrap();
        second.write_all(&asked).await.unwrap();
        second.shutdown().await.unwrap();
        assert_eq!(second.read(&mut [0]).await.unwrap(), 0, "the end stays the end");
    };
    let (answer, ()) = tokio::join!(ask, answer);
    assert!(answer == data);
}

#[tokio::test]
async fn one_side_may_end_and_go_on_reading() {
    let (client, server) = own_pair(WIRE).await;
    half_way(client, server).await;
    let (client, server) = own_pair(WIRE).await;
    half_way(server, client).await;
    let (client, server) = own_client(WIRE, provider()).await;
    half_way(client, server).await;
    let (client, server) = own_server(WIRE, provider()).await;
    half_way(server, client).await;
}

#[tokio::test]
async fn an_end_that_was_not_announced_is_an_error_after_the_data() {
    for whole in [true, false] {
        let (mut client, mut server) = own_pair(WIRE).await;
        client.write_all(b"data").await.unwrap();
        client.flush().await.unwrap();
        if !whole {
            client.io.write_all(&[23, 3, 3, 1]).await.unwrap();
        }
        drop(client);
        let mut seen = Vec::new();
        let error = server.read_to_end(&mut seen).await.unwrap_err();
        assert_eq!((seen.as_slice(), error.kind(), reason(&error)), (&b"data"[..], ErrorKind::UnexpectedEof, RecordError::Truncated));
        assert_eq!(server.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof, "again and again");
    }
    // rustls sees the same of us.
    let (mut client, server) = own_server(WIRE, provider()).await;
    drop(server);
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_follows_close_notify_is_ignored() {
    let (mut client, mut server) = own_pair(WIRE).await;
    let keys = client.sealer.keys_mut();
    let mut bytes = record(keys, b"last words", content::APPLICATION_DATA);
    bytes.extend(record(keys, &[1, 0], content::ALERT));
    bytes.extend(record(keys, b"too late", content::APPLICATION_DATA));
    bytes.extend([20, 3, 3, 0, 1, 1]);
    client.io.write_all(&bytes).await.unwrap();
    let mut seen = Vec::new();
    server.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"last words");
    server.write_all(b"still open").await.unwrap();
    client.read_exact(&mut [0; 10]).await.unwrap();
}

#[tokio::test]
async fn an_alert_of_the_peer_ends_both_directions_with_its_name() {
    for (code, text) in [(42, "bad_certificate"), (80, "internal_error"), (99, "99")] {
        let (mut client, mut server) = own_pair(WIRE).await;
        let alert = record(client.sealer.keys_mut(), &[1, code], content::ALERT);
        client.io.write_all(&alert).await.unwrap();
        let error = server.read(&mut [0]).await.unwrap_err();
        assert_eq!((error.kind(), reason(&error)), (ErrorKind::ConnectionAborted, RecordError::Alert(code)));
        assert!(error.to_string().ends_with(text), "{error}");
        assert_eq!(reason(&server.write(b"x").await.unwrap_err()), RecordError::Alert(code));
        server.shutdown().await.unwrap();
        // No alert answers an alert.
        assert_eq!(reason(&client.read(&mut [0]).await.unwrap_err()), RecordError::Truncated);
    }
    let (mut client, mut server) = own_pair(WIRE).await;
    let keys = client.sealer.keys_mut();
    let bytes = [record(keys, &[1, 90], content::ALERT), record(keys, &[1, 0], content::ALERT)].concat();
    client.io.write_all(&bytes).await.unwrap();
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "user_canceled announces an end");
}

#[tokio::test]
async fn our_alert_reaches_rustls_with_its_name() {
    let (mut client, mut server) = own_server(WIRE, provider()).await;
    client.get_mut().0.write_all(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).await.unwrap();
    assert_eq!(reason(&server.read(&mut [0]).await.unwrap_err()), RecordError::Mac);
    let error = client.read(&mut [0]).await.unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
}

#[tokio::test]
async fn an_alert_waits_behind_records_that_are_not_sent_yet() {
    let (mut client, mut server) = own_pair(1000).await;
    let count = server.write(&vec![7; 100_000]).await.unwrap();
    client.io.write_all(&[20, 3, 3, 0, 1, 1]).await.unwrap();
    server.read(&mut [0]).await.unwrap_err();
    let mut seen = vec![0; count];
    let (flushed, read) = tokio::join!(server.flush(), client.read_exact(&mut seen));
    flushed.unwrap();
    read.unwrap();
    assert_eq!(reason(&client.read(&mut [0]).await.unwrap_err()), RecordError::Alert(10));
}
