//! The messages whose content the proxy must know, read in place: borrowed views, bounded by their own frame, no copies.

use super::Malformed;
use super::read::Reader;

/// A SASLInitialResponse's body: the mechanism, and the first message where it has one.
pub fn sasl_initial(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let mut reader = Reader::new(body);
    let mechanism = reader.string()?;
    let length = reader.u32()?;
    if length == u32::MAX {
        reader.finish()?;
        return Ok((mechanism, None));
    }
    let data = reader.bytes(usize::try_from(length).map_err(|_| Malformed::Body)?)?;
    reader.finish()?;
    Ok((mechanism, Some(data)))
}

/// A PasswordMessage's body: the password or md5 answer.
pub fn password(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(body);
    let password = reader.string()?;
    reader.finish()?;
    Ok(password)
}

/// A Query's text: all but the zero at the end. A message with another one within is refused by the server.
#[inline]
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    match body {
        [text @ .., 0] => Ok(text),
        _ => Err(Malformed::Body),
    }
}

/// The string at the front: a CommandComplete's tag, an Execute's portal, the text of a definition.
pub fn string(body: &[u8]) -> Result<&[u8], Malformed> {
    Reader::new(body).string()
}

/// The name and text of a Parse.
pub fn parse(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    Ok((reader.string()?, reader.string()?))
}

/// The name of a Parse, and all that is behind its zero: the text, its zero, and the parameter types. `None` where that is not laid out as it must be.
pub fn definition(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(body);
    let name = reader.string().ok()?;
    let definition = reader.rest();
    let mut reader = Reader::new(definition);
    reader.string().ok()?;
    let types = reader.rest();
    let (count, types) = types.split_first_chunk::<2>()?;
    (types.len() == usize::from(u16::from_be_bytes(*count)).saturating_mul(4)).then_some((name, definition))
}

/// The portal and the statement of a Bind.
pub fn bind(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    parse(body)
}

/// Whether a Bind is one that a statement without parameters takes.
pub fn binds_no_values(body: &[u8]) -> bool {
    let read = || {
        let mut reader = Reader::new(body);
        let (_portal, _statement) = (reader.string()?, reader.string()?);
        let formats = reader.u16()?;
        if formats > 1 {
            return Ok(false);
        }
        for _ in 0..formats {
            reader.u16()?;
        }
        let values = reader.u16()?;
        for _ in 0..reader.u16()? {
            reader.u16()?;
        }
        reader.finish()?;
        Ok::<_, Malformed>(values == 0)
    };
    read().unwrap_or(false)
}

/// Which columns of the result a Bind wants in binary: none for all in text, one for all alike, or one for each.
pub fn result_formats(body: &[u8]) -> Result<Vec<bool>, Malformed> {
    let mut reader = Reader::new(body);
    let (_portal, _statement) = (reader.string()?, reader.string()?);
    for _ in 0..reader.u16()? {
        reader.u16()?;
    }
    for _ in 0..reader.u16()? {
        let length = reader.u32()?;
        if length != u32::MAX {
            reader.bytes(usize::try_from(length).map_err(|_| Malformed::Body)?)?;
        }
    }
    let formats = (0..reader.u16()?).map(|_| Ok(reader.u16()? == 1)).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(formats)
}

/// The portal of an Execute, and how many rows are wanted; 0 is all.
pub fn execute(body: &[u8]) -> Result<(&[u8], u32), Malformed> {
    let mut reader = Reader::new(body);
    Ok((reader.string()?, reader.u32()?))
}

/// What a Describe or Close is about: `S` or `P`, and the name.
pub fn describe(body: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    Ok((reader.u8()?, reader.string()?))
}

/// The first message of these bytes, head and body, and what is behind it; `None` where it is not whole.
pub fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let &[_, a, b, c, d] = bytes.first_chunk::<5>()?;
    let total = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?.checked_add(1)?;
    bytes.split_at_checked(total.max(5))
}

/// A NotificationResponse's channel and payload.
pub fn notification(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    reader.u32()?;
    let notification = (reader.string()?, reader.string()?);
    reader.finish()?;
    Ok(notification)
}

/// What a server asks for during its login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// The login is done.
    Ok,
    /// The password itself.
    Cleartext,
    /// The password's md5 with this salt.
    Md5([u8; 4]),
    /// SASL with one of these mechanisms (zero-terminated names, one after the other).
    Sasl(&'a [u8]),
    /// The next SASL message.
    SaslContinue(&'a [u8]),
    /// The last SASL message.
    SaslFinal(&'a [u8]),
    /// Something that the proxy does not speak (Kerberos, GSS, SSPI).
    Other(u32),
}

/// An Authentication message's body.
pub fn authentication(body: &[u8]) -> Result<Authentication<'_>, Malformed> {
    let mut reader = Reader::new(body);
    Ok(match reader.u32()? {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => Authentication::Md5(*reader.rest().first_chunk::<4>().ok_or(Malformed::Body)?),
        10 => Authentication::Sasl(reader.rest()),
        11 => Authentication::SaslContinue(reader.rest()),
        12 => Authentication::SaslFinal(reader.rest()),
        other => Authentication::Other(other),
    })
}

/// Whether a list of SASL mechanisms names this one.
pub fn offers(mechanisms: &[u8], wanted: &str) -> bool {
    mechanisms.split(|byte| *byte == 0).any(|name| name == wanted.as_bytes())
}

/// The name and value of a ParameterStatus.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    parse(body)
}

/// The values of a DataRow; NULL is `None`.
pub fn row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, Malformed> {
    let (count, rest) = body.split_first_chunk::<2>().ok_or(Malformed::Body)?;
    let mut reader = Reader::new(rest);
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let length = reader.u32()?;
        values.push(if length == u32::MAX { None } else { Some(reader.bytes(usize::try_from(length).map_err(|_| Malformed::Body)?)?) });
    }
    reader.finish()?;
    Ok(values)
}

/// The process id and the secret of a BackendKeyData; the secret has up to 256 bytes, and none from servers that give no key.
pub fn backend_key(body: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let mut reader = Reader::new(body);
    let pid = reader.u32()?;
    let secret = reader.rest();
    if secret.len() <= 256 { Ok((pid, secret)) } else { Err(Malformed::Body) }
}

/// The fields of an ErrorResponse or NoticeResponse, each of which may be missing (A10).
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    body: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of this body, however it is laid out: reading stops at what is not a field.
    pub fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// All fields in their order.
    pub fn iter(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut reader = Reader::new(self.body);
        std::iter::from_fn(move || match reader.u8() {
            Ok(0) | Err(_) => None,
            Ok(code) => reader.string().ok().map(|text| (code, text)),
        })
    }

    /// The field with this code.
    pub fn field(self, code: u8) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == code).map(|(_, text)| text)
    }

    /// The SQLSTATE, where there is one.
    pub fn sqlstate(self) -> Option<&'a [u8]> {
        self.field(b'C')
    }

    /// The message as text for a log.
    pub fn message(self) -> String {
        String::from_utf8_lossy(self.field(b'M').unwrap_or(b"no message")).into_owned()
    }

    /// Whether the severity says that the sender ends the session.
    pub fn is_fatal(self) -> bool {
        matches!(self.field(b'V').or_else(|| self.field(b'S')), Some(b"FATAL" | b"PANIC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sasl_lengths_are_checked() {
        assert_eq!(sasl_initial(b"SCRAM-SHA-256\0\0\0\0\x03n,,"), Ok((&b"SCRAM-SHA-256"[..], Some(&b"n,,"[..]))));
        assert_eq!(sasl_initial(b"SCRAM-SHA-256\0\xff\xff\xff\xff"), Ok((&b"SCRAM-SHA-256"[..], None)));
        assert_eq!(sasl_initial(b"SCRAM-SHA-256\0\0\0\0\x04n,,"), Err(Malformed::Body));
        assert_eq!(sasl_initial(b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,"), Err(Malformed::Body));
        assert_eq!(sasl_initial(b"SCRAM-SHA-256"), Err(Malformed::Body));
    }

    #[test]
    fn error_fields_may_be_missing() {
        let fields = Fields::new(b"SFATAL\0VFATAL\0C28P01\0Mno\0\0");
        assert!(fields.is_fatal());
        assert_eq!(fields.sqlstate(), Some(&b"28P01"[..]));
        let bare = Fields::new(b"Mno\0");
        assert_eq!((bare.sqlstate(), bare.message().as_str(), bare.is_fatal()), (None, "no", false));
        assert_eq!(Fields::new(b"").message(), "no message");
    }

    #[test]
    fn a_row_has_as_many_values_as_it_says() {
        assert_eq!(row(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff"), Ok(vec![Some(&b"a"[..]), None]));
        assert_eq!(row(b"\0\x02\0\0\0\x01a"), Err(Malformed::Body));
        assert_eq!(row(b"\0\x00x"), Err(Malformed::Body));
    }

    #[test]
    fn mechanisms_are_whole_words() {
        let list = b"SCRAM-SHA-256-PLUS\0\0";
        assert!(offers(list, "SCRAM-SHA-256-PLUS"));
        assert!(!offers(list, "SCRAM-SHA-256"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_them_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (sasl_initial(&body), password(&body), query(&body), parse(&body), bind(&body), describe(&body));
            let _ = (authentication(&body), parameter_status(&body), backend_key(&body), row(&body), definition(&body));
            let _ = (Fields::new(&body).iter().count(), Fields::new(&body).is_fatal());
        }
    }
}
