//! What stands in HTTP for gRPC's statuses: for clients that do not speak it, and for whoever counts what failed.
use http::StatusCode;

/// As gateways of gRPC to HTTP have it. What a server gives as the reason why it failed (UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE,
/// DATA_LOSS) is 500 and more, what it says of the request is less; a number that is none of gRPC's is UNKNOWN, as gRPC has it.
pub(crate) fn http_status(grpc: u16) -> StatusCode {
    match grpc {
        0 => StatusCode::OK,
        // CANCELLED, by the client: nginx's status, which has no name.
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
