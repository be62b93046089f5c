//! The same with tokio-rustls and the h2 crate at one end, and nothing of ours in between.
use std::rc::Rc;

use futures_util::future::join_all;
use http::{Method, Request as HttpRequest, Response, Version};
use tokio::task::spawn_local;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{Request, Shutdown, Tunnel, serve};

use crate::plan::{Plan, Progress, Side};
use crate::support::{Authority, CLIENT, SERVER, identity, pair};
use crate::{ends, ours};

/// What the library lets a peer send into one stream; of a connection it is four times that.
const WINDOW: u32 = 1 << 20;

pub(crate) async fn server(plans: Vec<Plan>, progress: Rc<Progress>) -> u64 {
    let plans = Rc::new(plans);
    let authority = Authority::new();
    let (mine, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
    let (near, far) = pair().await;
    let server = {
        let (plans, progress) = (Rc::clone(&plans), Rc::clone(&progress));
        spawn_local(async move {
            let stream = TlsAcceptor::from(theirs.server_config()).accept(far).await.unwrap();
            let mut builder = h2::server::Builder::new();
            builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW * 128).max_concurrent_streams(200);
            let mut connection = builder.handshake(stream).await.unwrap();
            let mut streams = Vec::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let send = respond.send_response(Response::new(()), false).unwrap();
                let (plans, progress) = (Rc::clone(&plans), Rc::clone(&progress));
                streams.push(spawn_local(async move {
                    let authority = request.uri().authority().unwrap().to_string();
                    let plan = ours::planned(&plans, &authority);
                    ends::stream(send, request.into_body(), plan, Side::Server, &progress).await;
                }));
            }
            join_all(streams).await.into_iter().for_each(Result::unwrap);
        })
    };
    let tunnel = Tunnel::connect(near, &mine, &[identity(SERVER)], Limits::default()).await.unwrap();
    join_all(plans.iter().map(|plan| ours::ask(&tunnel, plan, &progress))).await;
    drop(tunnel);
    server.await.unwrap();
    progress.all()
}

pub(crate) async fn client(plans: Vec<Plan>, progress: Rc<Progress>) -> u64 {
    let plans = Rc::new(plans);
    let authority = Authority::new();
    let (mine, theirs) = (authority.certify(SERVER), authority.certify(CLIENT));
    let (near, far) = pair().await;
    let handler = {
        let (plans, progress) = (Rc::clone(&plans), Rc::clone(&progress));
        move |request: Request| ours::accept(request, Rc::clone(&plans), Rc::clone(&progress))
    };
    let peer = far.peer_addr().unwrap();
    let server = spawn_local(async move { serve(far, peer, &mine, Limits::default(), Shutdown::new(), handler).await });
    let name = ServerName::try_from("ignored.example").unwrap();
    let stream = TlsConnector::from(theirs.client_config(&[identity(SERVER)])).connect(name, near).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW * 128);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    let driver = spawn_local(connection);
    join_all(plans.iter().map(|plan| {
        let (mut sender, progress) = (sender.clone(), Rc::clone(&progress));
        async move {
            let request = HttpRequest::builder().method(Method::CONNECT).version(Version::HTTP_2);
            let request = request.uri(ours::request(plan).authority).body(()).unwrap();
            let (response, send) = sender.send_request(request, false).unwrap();
            ends::stream(send, response.await.unwrap().into_body(), plan, Side::Client, &progress).await;
        }
    }))
    .await;
    // It closes at once, even on bytes that are still coming for streams that it broke off: then nobody could say how those ended.
    progress.all_served().await;
    drop(sender);
    driver.await.unwrap().unwrap();
    server.await.unwrap().unwrap();
    progress.all()
}
