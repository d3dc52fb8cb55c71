//! The status codes that this server can say, spelled as the reference spells them:
//! trackers and scripts match on the text of the `Status:` header, which repeats code
//! and reason.

/// A status of HTTP; its number is its discriminant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    Continue = 100,
    Ok = 200,
    Created = 201,
    NoContent = 204,
    PartialContent = 206,
    NotModified = 304,
    BadRequest = 400,
    Forbidden = 403,
    NotFound = 404,
    MethodNotAllowed = 405,
    RequestTimeout = 408,
    Conflict = 409,
    LengthRequired = 411,
    PreconditionFailed = 412,
    ContentTooLarge = 413,
    UriTooLong = 414,
    RangeNotSatisfiable = 416,
    ExpectationFailed = 417,
    HeadTooLarge = 431,
    InternalError = 500,
    Unavailable = 503,
    InsufficientStorage = 507,
}

impl Status {
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// "OK" of "200 OK".
    pub fn reason(self) -> &'static str {
        &self.line()["200 ".len()..]
    }

    /// Code and reason, as the status line and the `Status:` header have them.
    pub const fn line(self) -> &'static str {
        match self {
            Status::Continue => "100 Continue",
            Status::Ok => "200 OK",
            Status::Created => "201 Created",
            Status::NoContent => "204 No Content",
            Status::PartialContent => "206 Partial Content",
            Status::NotModified => "304 Not Modified",
            Status::BadRequest => "400 Bad Request",
            Status::Forbidden => "403 Forbidden",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::RequestTimeout => "408 Request Timeout",
            Status::Conflict => "409 Conflict",
            Status::LengthRequired => "411 Length Required",
            Status::PreconditionFailed => "412 Precondition Failed",
            Status::ContentTooLarge => "413 Content Too Large",
            Status::UriTooLong => "414 URI Too Long",
            // RFC 9110 says "Range Not Satisfiable"; the reference kept the spelling of RFC 2616
            Status::RangeNotSatisfiable => "416 Requested Range Not Satisfiable",
            Status::ExpectationFailed => "417 Expectation Failed",
            Status::HeadTooLarge => "431 Request Header Fields Too Large",
            Status::InternalError => "500 Internal Server Error",
            Status::Unavailable => "503 Service Unavailable",
            Status::InsufficientStorage => "507 Insufficient Storage",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Status::*;

    #[test]
    fn the_line_starts_with_the_code() {
        let all = [
            Continue,
            Ok,
            Created,
            NoContent,
            PartialContent,
            NotModified,
            BadRequest,
            Forbidden,
            NotFound,
            MethodNotAllowed,
            RequestTimeout,
            Conflict,
            LengthRequired,
            PreconditionFailed,
            ContentTooLarge,
            UriTooLong,
            RangeNotSatisfiable,
            ExpectationFailed,
            HeadTooLarge,
            InternalError,
            Unavailable,
            InsufficientStorage,
        ];
        for status in all {
            assert_eq!(
                status.line(),
                format!("{} {}", status.code(), status.reason())
            );
        }
        assert_eq!(
            RangeNotSatisfiable.reason(),
            "Requested Range Not Satisfiable"
        );
    }
}
