//! What may be written where: the tree of settings, read once from the JSON schema that the settings' structs generate.
//! The checker, the environment, reload and the reference page all walk this one tree, so they cannot disagree.

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use super::settings::Settings;

/// When a changed setting takes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Applies {
    /// For everything, from the reload on.
    AtOnce,
    /// For connections made from then on.
    NextConnection,
    /// Only when the program is started anew.
    Restart,
}

impl Applies {
    /// The words of the doc comments.
    pub fn words(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::NextConnection => "next connection",
            Self::Restart => "restart",
        }
    }

    fn from_words(words: &str) -> Option<Self> {
        [Self::AtOnce, Self::NextConnection, Self::Restart].into_iter().find(|applies| applies.words() == words)
    }
}

/// A node of the tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// Keys that are given.
    Table(Vec<Field>),
    /// Keys that the writer chooses, all of one shape.
    Named(Box<Shape>),
    /// Any number of one shape.
    List(Box<Shape>),
    /// A leaf.
    Value(Kind),
}

/// What a leaf may be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Boolean,
    Integer {
        min: i64,
        max: i64,
    },
    /// Text with rules of its own, see [`super::value::fits_format`].
    Text {
        format: String,
    },
    /// One of some words, each with its doc.
    Word(Vec<(String, String)>),
}

impl Kind {
    /// Whether its value is never shown.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self, Self::Text { format } if format == "secret" || format == "verifier")
    }
}

/// A key of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    /// The doc comment without its closing lines.
    pub(super) text: String,
    pub(super) applies: Option<Applies>,
    pub(super) default: Option<Json>,
    pub(super) example: Option<Json>,
    pub(super) shape: Shape,
}

/// The JSON schema of the file, every part in its place (no references).
pub(super) fn json_schema() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Settings>().to_value()
}

impl Shape {
    /// The tree of all settings.
    pub(super) fn of_settings() -> Self {
        Self::read(&json_schema())
    }

    fn read(schema: &Json) -> Self {
        let schema = without_null(schema);
        if let Some(properties) = schema.get("properties").and_then(Json::as_object) {
            let fields = properties.iter().map(|(name, schema)| Field::read(name, schema));
            return Self::Table(fields.collect());
        }
        if let Some(each) = schema.get("additionalProperties").filter(|each| each.is_object()) {
            return Self::Named(Box::new(Self::read(each)));
        }
        if let Some(items) = schema.get("items") {
            return Self::List(Box::new(Self::read(items)));
        }
        Self::Value(Kind::read(schema))
    }

    /// The field of a table.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        match self {
            Self::Table(fields) => fields.iter().find(|field| field.name == name),
            _ => None,
        }
    }

    /// The field that a path of keys leads to, if any; names and places in lists count as keys.
    pub(super) fn lookup(&self, path: &[String]) -> Option<&Field> {
        let mut shape = self;
        let mut found = None;
        for key in path {
            match shape {
                Self::Table(_) => {
                    let field = shape.field(key)?;
                    found = Some(field);
                    shape = &field.shape;
                }
                Self::Named(each) | Self::List(each) => shape = each,
                Self::Value(_) => return None,
            }
        }
        found
    }
}

/// `Option<T>` is written as `T`, or not at all.
fn without_null(schema: &Json) -> &Json {
    let alternatives = schema.get("anyOf").and_then(Json::as_array);
    let real = alternatives.and_then(|all| all.iter().find(|one| one.get("type") != Some(&Json::from("null"))));
    real.unwrap_or(schema)
}

impl Kind {
    fn read(schema: &Json) -> Self {
        let text = |value: &Json, key: &str| value.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
        if let Some(words) = schema.get("oneOf").and_then(Json::as_array) {
            let words = words.iter().map(|word| (text(word, "const"), text(word, "description")));
            return Self::Word(words.collect());
        }
        if let Some(words) = schema.get("enum").and_then(Json::as_array) {
            let words = words.iter().filter_map(Json::as_str);
            return Self::Word(words.map(|word| (word.to_owned(), String::new())).collect());
        }
        let is = |name: &str| match schema.get("type") {
            Some(Json::String(only)) => only == name,
            Some(Json::Array(several)) => several.iter().any(|one| one == name),
            _ => false,
        };
        let bound = |key: &str, otherwise| schema.get(key).and_then(Json::as_i64).unwrap_or(otherwise);
        if is("boolean") {
            Self::Boolean
        } else if is("integer") {
            Self::Integer { min: bound("minimum", 0), max: bound("maximum", i64::from(u32::MAX)) }
        } else {
            Self::Text { format: text(schema, "format") }
        }
    }
}

impl Field {
    /// Whether it is a tenant's limit: that has its default, and its explanation, below `defaults`.
    pub(super) fn is_inherited(&self) -> bool {
        self.default.is_none() && self.example.is_none() && matches!(self.shape, Shape::Value(_))
    }

    fn read(name: &str, schema: &Json) -> Self {
        // The format that a field's own attribute gives stands beside `anyOf`, not in it.
        let mut merged = without_null(schema).clone();
        if let (Some(merged), Some(format)) = (merged.as_object_mut(), schema.get("format")) {
            merged.insert("format".to_owned(), format.clone());
        }
        let doc = schema.get("description").and_then(Json::as_str).unwrap_or_default();
        let (mut text, mut applies) = (String::new(), None);
        for paragraph in doc.split("\n\n").map(|lines| lines.replace('\n', " ")) {
            if let Some(words) = paragraph.strip_prefix("applies: ") {
                applies = Applies::from_words(words.trim());
            } else {
                text.push_str(if text.is_empty() { "" } else { "\n\n" });
                text.push_str(paragraph.trim());
            }
        }
        Self {
            name: name.to_owned(),
            text,
            applies,
            default: schema.get("default").filter(|value| !value.is_null()).cloned(),
            example: schema.pointer("/examples/0").cloned(),
            shape: Shape::read(&merged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_leaf(shape: &Shape, path: &str, see: &mut dyn FnMut(&str, &Field)) {
        match shape {
            Shape::Table(fields) => {
                for field in fields {
                    let path = format!("{path}.{}", field.name);
                    if matches!(&field.shape, Shape::Value(_))
                        || matches!(&field.shape, Shape::List(each) if matches!(**each, Shape::Value(_)))
                    {
                        see(&path, field);
                    }
                    each_leaf(&field.shape, &path, see);
                }
            }
            Shape::Named(each) | Shape::List(each) => each_leaf(each, path, see),
            Shape::Value(_) => {}
        }
    }

    #[test]
    fn every_setting_says_what_it_does_and_when_it_applies() {
        let mut count = 0;
        each_leaf(&Shape::of_settings(), "", &mut |path, field| {
            count += 1;
            assert!(field.applies.is_some(), "{path} does not say when it applies");
            assert!(field.text.len() > 10, "{path} has no doc");
            assert!(field.text.ends_with(['.', '`']), "{path}: {}", field.text);
            let has_value = field.default.is_some() || field.example.is_some();
            let is_inherited = path.starts_with(".tenants.") && path != ".tenants.upstream" && !path.contains(".match.");
            assert_eq!(field.is_inherited(), is_inherited, "{path} has neither default nor example");
            assert!(has_value || is_inherited, "{path}");
        });
        assert!(count > 90, "only {count} settings were found");
    }

    #[test]
    fn kinds_are_read_from_the_schema() {
        let shape = Shape::of_settings();
        let kind = |path: &str| {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            match shape.lookup(&path).map(|field| field.shape.clone()) {
                Some(Shape::Value(kind)) => kind,
                other => panic!("{path:?} is {other:?}"),
            }
        };
        assert_eq!(kind("upstreams.main.max_connections"), Kind::Integer { min: 1, max: 100_000 });
        assert_eq!(kind("tenants.acme.weight"), Kind::Integer { min: 1, max: 10_000 });
        assert_eq!(kind("tenants.acme.queue_timeout"), Kind::Text { format: "period".to_owned() });
        assert_eq!(kind("users.app.password_file"), Kind::Text { format: "path".to_owned() });
        assert!(kind("users.app.password").is_secret());
        assert!(kind("users.app.verifier").is_secret());
        assert_eq!(kind("users.app.may_name_tenant"), Kind::Boolean);
        let Kind::Word(words) = kind("upstreams.main.tls.mode") else {
            panic!("sslmode has no words");
        };
        let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(words, ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]);
    }
}
