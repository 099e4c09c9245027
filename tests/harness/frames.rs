//! The bytes of every message a client can send, built by hand so that a test can also build them wrongly.

use bytes::BufMut;

/// `CancelRequest`'s code.
pub const CANCEL: u32 = 80_877_102;
/// `SSLRequest`'s code.
pub const SSL: u32 = 80_877_103;
/// `GSSENCRequest`'s code.
pub const GSSENC: u32 = 80_877_104;
/// Protocol 3.0.
pub const V3_0: u32 = 0x0003_0000;
/// Protocol 3.2.
pub const V3_2: u32 = 0x0003_0002;

/// A message with this type byte and body.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.put_u32(length(body.len() + 4));
    out.extend_from_slice(body);
    out
}

/// A message without a type byte, as all are before authentication: a code and what follows it.
pub fn untyped(code: u32, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(length(rest.len() + 8));
    out.put_u32(code);
    out.extend_from_slice(rest);
    out
}

/// `StartupMessage` of any version.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut rest = Vec::new();
    for (name, value) in parameters {
        put_str(&mut rest, name);
        put_str(&mut rest, value);
    }
    rest.push(0);
    untyped(version, &rest)
}

/// `SSLRequest`.
pub fn ssl_request() -> Vec<u8> {
    untyped(SSL, &[])
}

/// `GSSENCRequest`.
pub fn gssenc_request() -> Vec<u8> {
    untyped(GSSENC, &[])
}

/// `CancelRequest`; the secret has 4 bytes in protocol 3.0 and up to 256 in 3.2.
pub fn cancel(pid: u32, secret: &[u8]) -> Vec<u8> {
    untyped(CANCEL, &[&pid.to_be_bytes(), secret].concat())
}

/// `PasswordMessage`, cleartext or md5.
pub fn password(text: &str) -> Vec<u8> {
    message(b'p', &c_str(text))
}

/// `SASLInitialResponse`.
pub fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let mut body = c_str(mechanism);
    body.put_u32(length(data.len()));
    body.extend_from_slice(data);
    message(b'p', &body)
}

/// `SASLResponse`.
pub fn sasl(data: &[u8]) -> Vec<u8> {
    message(b'p', data)
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &c_str(sql))
}

/// Parse, with the types of the first parameters.
pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = c_str(name);
    put_str(&mut body, sql);
    body.put_u16(u16::try_from(types.len()).unwrap());
    for oid in types {
        body.put_u32(*oid);
    }
    message(b'P', &body)
}

/// Bind with values as text; results as text.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
    bind_with(portal, statement, &[], &values, &[])
}

/// Bind with formats (0 text, 1 binary) of values and results.
pub fn bind_with(portal: &str, statement: &str, formats: &[u16], values: &[Option<&[u8]>], results: &[u16]) -> Vec<u8> {
    let mut body = c_str(portal);
    put_str(&mut body, statement);
    put_codes(&mut body, formats);
    body.put_u16(u16::try_from(values.len()).unwrap());
    for value in values {
        match value {
            Some(bytes) => {
                body.put_u32(length(bytes.len()));
                body.extend_from_slice(bytes);
            }
            None => body.put_i32(-1),
        }
    }
    put_codes(&mut body, results);
    message(b'B', &body)
}

/// Describe of a statement (`b'S'`) or a portal (`b'P'`).
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[kind][..], &c_str(name)].concat())
}

/// Close of a statement (`b'S'`) or a portal (`b'P'`).
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[kind][..], &c_str(name)].concat())
}

/// Execute; 0 rows means all.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[&c_str(portal)[..], &rows.to_be_bytes()].concat())
}

/// Flush.
pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// `CopyData`.
pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

/// `CopyDone`.
pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

/// `CopyFail`.
pub fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &c_str(reason))
}

/// `FunctionCall` with arguments as text and the result as text.
pub fn function_call(function: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = function.to_be_bytes().to_vec();
    put_codes(&mut body, &[]);
    body.put_u16(u16::try_from(arguments.len()).unwrap());
    for argument in arguments {
        body.put_u32(length(argument.len()));
        body.extend_from_slice(argument.as_bytes());
    }
    body.put_u16(0);
    message(b'F', &body)
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

/// What a server says, for [`Script`](super::Script).
pub mod server {
    use bytes::BufMut;

    use super::{c_str, length, message, put_str};

    /// `AuthenticationOk`.
    pub fn authentication_ok() -> Vec<u8> {
        message(b'R', &0_u32.to_be_bytes())
    }

    /// `ParameterStatus`.
    pub fn parameter(name: &str, value: &str) -> Vec<u8> {
        message(b'S', &[c_str(name), c_str(value)].concat())
    }

    /// `BackendKeyData`.
    pub fn key(pid: u32, secret: &[u8]) -> Vec<u8> {
        message(b'K', &[&pid.to_be_bytes(), secret].concat())
    }

    /// `ReadyForQuery` with status `I`, `T` or `E`.
    pub fn ready(status: u8) -> Vec<u8> {
        message(b'Z', &[status])
    }

    /// `CommandComplete`.
    pub fn complete(tag: &str) -> Vec<u8> {
        message(b'C', &c_str(tag))
    }

    /// `RowDescription` of text columns.
    pub fn columns(names: &[&str]) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u16(u16::try_from(names.len()).unwrap());
        for name in names {
            put_str(&mut body, name);
            body.put_u32(0);
            body.put_u16(0);
            body.put_u32(25);
            body.put_i16(-1);
            body.put_i32(-1);
            body.put_u16(0);
        }
        message(b'T', &body)
    }

    /// `DataRow`.
    pub fn row(values: &[Option<&str>]) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u16(u16::try_from(values.len()).unwrap());
        for value in values {
            match value {
                Some(text) => {
                    body.put_u32(length(text.len()));
                    body.extend_from_slice(text.as_bytes());
                }
                None => body.put_i32(-1),
            }
        }
        message(b'D', &body)
    }

    /// `ErrorResponse`.
    pub fn error(severity: &str, code: &str, text: &str) -> Vec<u8> {
        message(b'E', &fields(severity, code, text))
    }

    /// `NoticeResponse`.
    pub fn notice(severity: &str, code: &str, text: &str) -> Vec<u8> {
        message(b'N', &fields(severity, code, text))
    }

    fn fields(severity: &str, code: &str, text: &str) -> Vec<u8> {
        let mut body = Vec::new();
        for (field, value) in [(b'S', severity), (b'V', severity), (b'C', code), (b'M', text)] {
            body.push(field);
            put_str(&mut body, value);
        }
        body.push(0);
        body
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a message under 4 GiB")
}

fn c_str(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_str(&mut out, text);
    out
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn put_codes(out: &mut Vec<u8>, codes: &[u16]) {
    out.put_u16(u16::try_from(codes.len()).unwrap());
    for code in codes {
        out.put_u16(*code);
    }
}
