//! A director for tests: says what the test wants, certifies what it is asked for, remembers everything it hears.
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use prost::Message as _;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming};
use trackbed_contract::Identity;
use trackbed_contract::engine::director_server::{Director as Service, DirectorServer};
use trackbed_contract::engine::{
    AddPod, CertificateReply, CertificateRequest, Event, Flow, FromEngine, InSync, MeshSettings, PodState, Record, RecordedBatch,
    RecordedSummary, ReportBatch, ReportSummary, Resource, StateDelta, ToEngine, Welcome, from_engine, to_engine,
};
use trackbed_tls::Certified;

use crate::PATIENCE;

/// A root that signs what it is asked for.
pub(crate) struct Authority {
    root: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Arc<Self> {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).expect("root");
        Arc::new(Self { root, issuer: Issuer::new(params, key) })
    }

    /// An identity of its own for a peer that the test plays.
    pub(crate) fn certify(&self, identity: &str) -> Arc<Certified> {
        let identity = Identity::parse(identity).expect("identity");
        let key = Arc::new(trackbed_tls::KeyPair::generate().expect("key"));
        let csr = key.csr(&identity).expect("csr");
        let request = CertificateRequest { identity: identity.to_string(), csr, ..CertificateRequest::default() };
        let reply = self.sign(&request, Duration::from_hours(1));
        Arc::new(Certified::new(&identity, key, &reply.chain, &reply.roots, SystemTime::now()).expect("certified"))
    }

    fn sign(&self, request: &CertificateRequest, life: Duration) -> CertificateReply {
        let mut csr = CertificateSigningRequestParams::from_der(&request.csr.clone().into()).expect("a CSR");
        let now = SystemTime::now();
        csr.params.not_before = (now - Duration::from_secs(1)).into();
        csr.params.not_after = (now + life).into();
        csr.params.subject_alt_names = vec![SanType::URI(request.identity.as_str().try_into().expect("uri"))];
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = csr.signed_by(&self.issuer).expect("leaf");
        CertificateReply {
            request_id: request.request_id,
            chain: vec![leaf.der().to_vec()],
            roots: vec![self.root.der().to_vec()],
            ..CertificateReply::default()
        }
    }
}

/// What the director knows and has heard.
struct Mind {
    settings: MeshSettings,
    resources: Vec<Resource>,
    pods: Vec<AddPod>,
    generation: u64,
    /// `None` refuses every request.
    life: Option<Duration>,
    /// The contract version that Welcome says.
    version: u32,
    /// An engine that has attached and not said Hello yet.
    arriving: Option<mpsc::UnboundedSender<ToEngine>>,
    stream: Option<mpsc::UnboundedSender<ToEngine>>,
    events: Vec<Event>,
    heard: Vec<from_engine::Message>,
    flows: Vec<Flow>,
    /// Of every recording, in the order they came.
    recorded: Vec<RecordedBatch>,
    /// Recordings that the director has had enough of.
    enough: Vec<u64>,
    turned_away: usize,
}

#[derive(Clone)]
pub(crate) struct Director {
    mind: Arc<(Mutex<Mind>, Condvar)>,
    authority: Arc<Authority>,
    /// `None` asks for none.
    token: Option<String>,
}

impl Director {
    /// Listens on `socket` for the life of the test process.
    pub(crate) fn start(socket: &Path, authority: Arc<Authority>, settings: MeshSettings) -> Self {
        let director = Self::new(authority, settings, None);
        let socket = socket.to_owned();
        director.listen(move || {
            let listener = UnixListener::bind(&socket).expect("director.sock");
            futures_util::stream::poll_fn(move |context| match listener.poll_accept(context) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted.map(|(stream, _)| stream))),
                Poll::Pending => Poll::Pending,
            })
        });
        director
    }

    /// The same over TLS, for whoever shows this token.
    pub(crate) fn start_tls(
        listener: std::net::TcpListener,
        config: ServerConfig,
        token: &str,
        authority: Arc<Authority>,
        settings: MeshSettings,
    ) -> Self {
        let director = Self::new(authority, settings, Some(token.to_owned()));
        director.listen(move || {
            let (sender, mut accepted) = mpsc::unbounded_channel();
            listener.set_nonblocking(true).expect("nonblocking");
            let listener = TcpListener::from_std(listener).expect("listener");
            let acceptor = TlsAcceptor::from(Arc::new(config));
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("accept");
                    let (acceptor, sender) = (acceptor.clone(), sender.clone());
                    tokio::spawn(async move {
                        // One that does not trust us says so, and comes again.
                        let Ok(mut stream) = acceptor.accept(stream).await else { return };
                        let (mut near, far) = tokio::io::duplex(1 << 16);
                        sender.send(Ok::<_, std::io::Error>(far)).expect("the server takes it");
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut near).await;
                    });
                }
            });
            futures_util::stream::poll_fn(move |context| accepted.poll_recv(context))
        });
        director
    }

    fn new(authority: Arc<Authority>, settings: MeshSettings, token: Option<String>) -> Self {
        let mind = Mind {
            settings,
            resources: Vec::new(),
            pods: Vec::new(),
            generation: 0,
            life: Some(Duration::from_hours(1)),
            version: 1,
            arriving: None,
            stream: None,
            events: Vec::new(),
            heard: Vec::new(),
            flows: Vec::new(),
            recorded: Vec::new(),
            enough: Vec::new(),
            turned_away: 0,
        };
        Self { mind: Arc::new((Mutex::new(mind), Condvar::new())), authority, token }
    }

    fn listen<S, Io>(&self, incoming: impl FnOnce() -> S + Send + 'static)
    where
        S: futures_util::Stream<Item = std::io::Result<Io>> + Unpin,
        Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + tonic::transport::server::Connected + Unpin + Send + 'static,
    {
        let service = self.clone();
        let (ready, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async move {
                let incoming = incoming();
                ready.send(()).expect("started");
                let server = tonic::transport::Server::builder().add_service(DirectorServer::new(service));
                server.serve_with_incoming(incoming).await.expect("director");
            });
        });
        started.recv().expect("director starts");
    }

    /// Calls without the token.
    pub(crate) fn turned_away(&self, more_than: usize) {
        self.until("a call is turned away", |mind| (mind.turned_away > more_than).then_some(()));
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(token) = &self.token else { return Ok(()) };
        if request.metadata().get("authorization").is_some_and(|shown| shown.as_bytes() == format!("Bearer {token}").as_bytes()) {
            return Ok(());
        }
        self.lock().turned_away += 1;
        self.mind.1.notify_all();
        Err(Status::unauthenticated("not the token"))
    }

    pub(crate) fn send(&self, message: to_engine::Message) {
        self.send_any(ToEngine { message: Some(message) });
    }

    pub(crate) fn send_any(&self, message: ToEngine) {
        let mind = self.lock();
        mind.stream.as_ref().expect("an engine is attached").send(message).expect("stream");
    }

    /// What Welcome says from the next stream on.
    pub(crate) fn speaks(&self, version: u32) {
        self.lock().version = version;
    }

    /// The whole state from now on; returns when the engine has it in force, with what it rejected.
    pub(crate) fn state(&self, resources: Vec<Resource>) -> Vec<trackbed_contract::engine::Rejected> {
        let generation = {
            let mut mind = self.lock();
            mind.generation += 1;
            mind.resources = resources;
            let delta = mind.delta();
            let stream = mind.stream.clone();
            let generation = mind.generation;
            drop(mind);
            if let Some(stream) = stream {
                stream.send(ToEngine { message: Some(to_engine::Message::State(delta)) }).expect("stream");
            }
            generation
        };
        self.hears("Applied", |message| match message {
            from_engine::Message::Applied(applied) if applied.generation == generation => Some(applied.rejected.clone()),
            _ => None,
        })
    }

    pub(crate) fn add(&self, pod: AddPod) {
        let mut mind = self.lock();
        mind.pods.retain(|known| known.uid != pod.uid);
        mind.pods.push(pod.clone());
        drop(mind);
        self.send(to_engine::Message::AddPod(pod));
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.lock().pods.retain(|known| known.uid != uid);
    }

    /// Ends the stream; the engine comes back by itself.
    pub(crate) fn disconnect(&self) {
        self.lock().stream = None;
    }

    /// `None` = refuse.
    pub(crate) fn certificate_life(&self, life: Option<Duration>) {
        self.lock().life = life;
    }

    /// Waits until the last state of a pod satisfies the test.
    pub(crate) fn pod_state(&self, uid: &str, wanted: impl Fn(&PodState) -> bool) -> PodState {
        self.until("pod state", |mind| {
            let mut states = mind.heard.iter().flat_map(|message| match message {
                from_engine::Message::PodState(state) => std::slice::from_ref(state),
                from_engine::Message::Hello(hello) => &hello.pods,
                _ => &[],
            });
            states.rfind(|state| state.uid == uid).filter(|state| wanted(state)).cloned()
        })
    }

    pub(crate) fn ready(&self, uid: &str) {
        self.pod_state(uid, |state| state.listening && state.identity && state.policy);
    }

    /// Waits for a message since the beginning.
    pub(crate) fn hears<T>(&self, what: &str, wanted: impl Fn(&from_engine::Message) -> Option<T>) -> T {
        self.until(what, |mind| mind.heard.iter().find_map(&wanted))
    }

    pub(crate) fn many_gone(&self, count: usize) {
        let gone = |message: &&from_engine::Message| matches!(message, from_engine::Message::PodGone(_));
        self.until("PodGone", |mind| (mind.heard.iter().filter(gone).count() >= count).then_some(()));
    }

    /// Connections cut when the pod was let go.
    pub(crate) fn gone(&self, uid: &str) -> u32 {
        self.hears("PodGone", |message| match message {
            from_engine::Message::PodGone(gone) if gone.uid == uid => Some(gone.cut),
            _ => None,
        })
    }

    pub(crate) fn flow(&self, what: &str, wanted: impl Fn(&Flow) -> bool) -> Flow {
        self.until(what, |mind| mind.flows.iter().find(|flow| wanted(flow)).cloned())
    }

    /// Returns when every connection that begins from then on is recorded.
    pub(crate) fn record(&self, order: Record) {
        let id = order.id;
        self.send(to_engine::Message::Record(order));
        self.recorded("a recording", |batches| batches.iter().any(|batch| batch.id == id).then_some(()));
    }

    pub(crate) fn recorded<T>(&self, what: &str, wanted: impl Fn(&[RecordedBatch]) -> Option<T>) -> T {
        self.until(what, |mind| wanted(&mind.recorded))
    }

    /// Answers the recording's call with the next batch that comes.
    pub(crate) fn enough_of(&self, id: u64) {
        self.lock().enough.push(id);
    }

    pub(crate) fn event(&self, code: &str) -> Event {
        self.until("an event", |mind| mind.events.iter().find(|event| event.code == code).cloned())
    }

    pub(crate) fn count_events(&self, code: &str) -> usize {
        self.lock().events.iter().filter(|event| event.code == code).count()
    }

    pub(crate) fn hellos(&self, more_than: usize) {
        self.until("another Hello", |mind| (hellos(mind) > more_than).then_some(()));
    }

    pub(crate) fn count(&self, wanted: impl Fn(&from_engine::Message) -> bool) -> usize {
        self.lock().heard.iter().filter(|message| wanted(message)).count()
    }

    fn until<T>(&self, what: &str, wanted: impl Fn(&Mind) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut mind = self.lock();
        loop {
            if let Some(found) = wanted(&mind) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not within {PATIENCE:?}: {what}\nheard {:#?}\nflows {:#?}", mind.heard, mind.flows);
            mind = self.mind.1.wait_timeout(mind, left).expect("no panic elsewhere").0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mind> {
        self.mind.0.lock().expect("no panic elsewhere")
    }

    fn hear(&self, message: from_engine::Message) {
        let mut mind = self.lock();
        if let from_engine::Message::CertificateRequest(request) = &message {
            let reply = match mind.life {
                Some(life) => self.authority.sign(request, life),
                None => CertificateReply {
                    request_id: request.request_id,
                    code: "E_IDENTITY_REFUSED".into(),
                    reason: "the test refuses".into(),
                    ..CertificateReply::default()
                },
            };
            mind.say(to_engine::Message::CertificateReply(reply));
        }
        if let from_engine::Message::Hello(_) = &message {
            mind.stream = mind.arriving.take();
            mind.greet();
        }
        mind.heard.push(message);
        self.mind.1.notify_all();
    }
}

impl Mind {
    fn say(&self, message: to_engine::Message) {
        if let Some(stream) = &self.stream {
            // An engine that was killed just now does not listen any more.
            let _ = stream.send(ToEngine { message: Some(message) });
        }
    }

    fn delta(&self) -> StateDelta {
        StateDelta { generation: self.generation, reset: true, upsert: self.resources.clone(), remove: Vec::new() }
    }

    fn greet(&mut self) {
        let settings = Some(self.settings.clone());
        self.say(to_engine::Message::Welcome(Welcome { contract_version: self.version, director_version: "test".into(), settings }));
        self.generation += 1;
        self.say(to_engine::Message::State(self.delta()));
        self.pods.iter().for_each(|pod| self.say(to_engine::Message::AddPod(pod.clone())));
        self.say(to_engine::Message::InSync(InSync {}));
    }
}

fn hellos(mind: &Mind) -> usize {
    mind.heard.iter().filter(|message| matches!(message, from_engine::Message::Hello(_))).count()
}

impl Debug for Director {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Director")
    }
}

#[tonic::async_trait]
impl Service for Director {
    type AttachStream = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<ToEngine, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<FromEngine>>) -> Result<Response<Self::AttachStream>, Status> {
        self.admit(&request)?;
        let (sender, mut receiver) = mpsc::unbounded_channel();
        self.lock().arriving = Some(sender);
        let (director, mut stream) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(FromEngine { message: Some(message) })) = stream.message().await {
                director.hear(message);
            }
        });
        Ok(Response::new(Box::pin(futures_util::stream::poll_fn(move |context| {
            receiver.poll_recv(context).map(|message| message.map(Ok))
        }))))
    }

    async fn recorded(&self, request: Request<Streaming<RecordedBatch>>) -> Result<Response<RecordedSummary>, Status> {
        let mut stream = request.into_inner();
        while let Some(batch) = stream.message().await? {
            let mut mind = self.lock();
            let enough = mind.enough.contains(&batch.id);
            mind.recorded.push(batch);
            drop(mind);
            self.mind.1.notify_all();
            if enough {
                break;
            }
        }
        Ok(Response::new(RecordedSummary {}))
    }

    async fn report(&self, request: Request<Streaming<ReportBatch>>) -> Result<Response<ReportSummary>, Status> {
        self.admit(&request)?;
        let mut stream = request.into_inner();
        while let Some(batch) = stream.message().await? {
            let mut mind = self.lock();
            mind.flows.extend(batch.flows.iter().map(|flow| Flow::decode(&**flow).expect("a flow of the contract")));
            mind.events.extend(batch.events);
            drop(mind);
            self.mind.1.notify_all();
        }
        Ok(Response::new(ReportSummary { received: 0 }))
    }
}
