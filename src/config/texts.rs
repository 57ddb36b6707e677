//! The texts of SMS and e-mails: what is wrong with them, and filling them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde_json::{Map, Value};

use super::check::Faults;
use super::notices::{Notices, Template, Text};
use crate::domain::money::Money;
use crate::domain::notice::{Language, OWN_TEXTS, Topic, Way};

/// Stands for the order in every text.
const ORDER_ID: &str = "orderId";

/// So much of a parameter is shown, in characters.
const PARAM_CHARS: usize = 300;

/// What a text message, a subject and an e-mail may have at most, in characters.
const SMS_CHARS: usize = 1_000;
const SUBJECT_CHARS: usize = 200;
const BODY_CHARS: usize = 20_000;

/// The texts, as configured. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    language: Language,
    templates: Arc<BTreeMap<String, Template>>,
}

/// A text that is ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Of an e-mail; one line.
    pub subject: String,
    /// The text message, or the e-mail.
    pub text: String,
}

impl Texts {
    /// Of a configuration that was checked.
    #[must_use]
    pub fn new(notices: &Notices) -> Self {
        Self { language: notices.language, templates: Arc::new(notices.templates.clone()) }
    }

    /// What this text is about, where there is one to be sent by `way`.
    #[must_use]
    pub fn topic(&self, template: &str, way: Way) -> Option<Topic> {
        let template = self.templates.get(template)?;
        let text = template.text(self.language)?;
        is_there(text, way).then_some(template.topic)
    }

    /// Fills a text; without a language in that of the shop.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn fill(
        &self,
        template: &str,
        way: Way,
        language: Option<Language>,
        order_id: i64,
        params: &Value,
    ) -> Result<Filled, String> {
        let none = || format!("there is no text {template:?} for it: see notices.templates");
        let known = self.templates.get(template).ok_or_else(none)?;
        let text = known.text(language.unwrap_or(self.language)).filter(|text| is_there(text, way)).ok_or_else(none)?;
        let values = values(order_id, params);
        let render = |source: &str| render(source, &values).map_err(|error| format!("{template}: {error}"));
        Ok(match way {
            Way::Sms => Filled { subject: String::new(), text: cut(render(&text.sms)?.trim(), SMS_CHARS) },
            Way::Email => Filled {
                // A line break in a header would begin another one.
                subject: cut(&one_line(&render(&text.subject)?), SUBJECT_CHARS),
                text: cut(&render(&text.body)?, BODY_CHARS),
            },
        })
    }
}

fn is_there(text: &Text, way: Way) -> bool {
    match way {
        Way::Sms => !text.sms.is_empty(),
        Way::Email => !text.subject.is_empty(),
    }
}

/// So much of a text at most; one that is longer ends with a sign of it.
fn cut(text: &str, chars: usize) -> String {
    if text.chars().nth(chars).is_none() {
        return text.to_owned();
    }
    let kept = text.chars().take(chars.saturating_sub(1));
    kept.chain(['\u{2026}']).collect()
}

fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.trim().to_owned()
}

/// What a text is filled with: nothing that has no value, amounts with two places, and no control characters.
fn values(order_id: i64, params: &Value) -> Map<String, Value> {
    let mut values = Map::new();
    for (name, value) in params.as_object().into_iter().flatten() {
        let is_amount = name == "amount" || name.ends_with("Amount");
        let amount = if is_amount { serde_json::from_value::<Money>(value.clone()).ok() } else { None };
        match amount {
            Some(amount) => drop(values.insert(name.clone(), Value::from(amount.to_string()))),
            None if value.is_null() => {}
            None => drop(values.insert(name.clone(), plain(value))),
        }
    }
    values.insert(ORDER_ID.to_owned(), Value::from(order_id.to_string()));
    values
}

fn plain(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(cut(&one_line(text), PARAM_CHARS)),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => Value::Object(fields.iter().map(|(name, one)| (name.clone(), plain(one))).collect()),
        other => other.clone(),
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment
}

fn render(source: &str, values: &Map<String, Value>) -> Result<String, String> {
    environment().render_str(source, Serde(values)).map_err(|error| format!("the text cannot be filled: {error}"))
}

/// Everything about the texts that cannot work.
pub(super) fn check(notices: &Notices, faults: &mut Faults) {
    for (name, _) in OWN_TEXTS.iter().filter(|(name, _)| !notices.templates.contains_key(*name)) {
        let key = format!("notices.templates.{name}");
        faults.add(&key, "ruyi sends this text, and it is missing", "see notices.example.toml");
    }
    for (name, template) in &notices.templates {
        let key = format!("notices.templates.{name}");
        if name.is_empty() || name.len() > 64 {
            faults.add(&key, "its name must have 1 to 64 characters", "shorten it");
        }
        check_template(&key, name, template, faults);
    }
}

fn check_template(key: &str, name: &str, template: &Template, faults: &mut Faults) {
    let own = OWN_TEXTS.iter().find(|(own, _)| *own == name).map(|(_, params)| *params);
    for param in own.iter().flat_map(|own| template.params.iter().filter(|param| !own.contains(&param.as_str()))) {
        let known = own.unwrap_or_default().join(", ");
        faults.add(&format!("{key}.params"), &format!("{name} never has {param:?}"), &format!("it has {known}"));
    }
    let mut known: BTreeSet<&str> = template.params.iter().map(String::as_str).collect();
    known.insert(ORDER_ID);
    for language in Language::ALL {
        let key = format!("{key}.{}", language.name());
        match template.text(language) {
            None => faults.add(&key, "missing: a text has every language", "write it, with sms, subject and body"),
            Some(text) => check_text(&key, text, &known, faults),
        }
    }
    if let (Some(zh), Some(en)) = (&template.zh, &template.en) {
        for (way, field) in [(Way::Sms, "sms"), (Way::Email, "subject")] {
            if is_there(zh, way) != is_there(en, way) {
                let language = if is_there(zh, way) { Language::En } else { Language::Zh };
                let key = format!("{key}.{}.{field}", language.name());
                faults.add(&key, "empty in this language, and not in the other", "write it, or empty both");
            }
        }
    }
}

fn check_text(key: &str, text: &Text, known: &BTreeSet<&str>, faults: &mut Faults) {
    if text.subject.is_empty() != text.body.is_empty() {
        faults.add(key, "an e-mail has a subject and a body", "write both, or empty both");
    }
    let sample: Map<String, Value> = known.iter().map(|name| ((*name).to_owned(), Value::from("1"))).collect();
    for (field, source) in [("sms", &text.sms), ("subject", &text.subject), ("body", &text.body)] {
        let key = format!("{key}.{field}");
        let environment = environment();
        let unknown = match environment.template_from_str(source) {
            Ok(parsed) => parsed.undeclared_variables(false),
            Err(error) => {
                faults.add(&key, &format!("cannot be read: {error}"), "a parameter is written {{ name }}");
                continue;
            }
        };
        let unknown: BTreeSet<&str> = unknown.iter().map(String::as_str).filter(|name| !known.contains(name)).collect();
        for name in &unknown {
            let all = known.iter().copied().collect::<Vec<_>>().join(", ");
            faults.add(&key, &format!("nothing fills {{{{ {name} }}}}"), &format!("there are {all}"));
        }
        if let (true, Err(error)) = (unknown.is_empty(), render(source, &sample)) {
            faults.add(&key, &error, "see notices.example.toml");
        }
    }
}
