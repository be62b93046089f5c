//! The protocols that are told apart.

/// As flow records name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Http1,
    Http2,
    Grpc,
    WebSocket,
    Tls,
    Postgresql,
    Mysql,
    Redis,
    Kafka,
    Ssh,
}

impl Protocol {
    pub const ALL: [Self; 10] = [
        Self::Http1,
        Self::Http2,
        Self::Grpc,
        Self::WebSocket,
        Self::Tls,
        Self::Postgresql,
        Self::Mysql,
        Self::Redis,
        Self::Kafka,
        Self::Ssh,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
            Self::Tls => "tls",
            Self::Postgresql => "postgresql",
            Self::Mysql => "mysql",
            Self::Redis => "redis",
            Self::Kafka => "kafka",
            Self::Ssh => "ssh",
        }
    }
}
