//! Sample vacancies as sources write them: JSON of two shapes, RSS and Atom.

use serde_json::{Value, json};

use super::vacancy::SampleVacancy;

/// A job board's JSON: the list two levels down, fields nested. [`BOARD_MAPPING`] finds them.
pub(super) fn board(vacancies: &[SampleVacancy]) -> Value {
    let mut items: Vec<Value> = vacancies.iter().map(board_item).collect();
    // Boards are like this: one without a title, one without a link, and two listed twice.
    let mut untitled = items[0].clone();
    untitled["link"] = json!("https://copperline-freight.example/jobs/untitled");
    untitled["headline"] = Value::Null;
    let mut without_link = items[1].clone();
    without_link["link"] = json!("");
    items.extend([untitled, without_link, items[2].clone(), items[3].clone()]);
    json!({ "data": { "total": items.len(), "items": items } })
}

fn board_item(vacancy: &SampleVacancy) -> Value {
    json!({
        "headline": vacancy.title,
        "link": vacancy.url,
        "employer": { "name": vacancy.company },
        "place": vacancy.location,
        "text": vacancy.description,
        "pay": { "from": vacancy.salary.map(|(from, _)| from), "to": vacancy.salary.map(|(_, to)| to) },
        "skills": vacancy.tags,
        "posted_at": vacancy.published.timestamp(),
    })
}

/// Where [`board`] has what a vacancy needs.
pub(in crate::dev) fn board_mapping() -> Value {
    json!({
        "items": "/data/items", "title": "/headline", "url": "/link", "description": "/text", "published": "/posted_at",
        "company": "/employer/name", "location": "/place", "salary_min": "/pay/from", "salary_max": "/pay/to",
        "tags": "/skills",
    })
}

/// A flat list of flat objects.
pub(super) fn flat(vacancies: &[SampleVacancy]) -> Value {
    let item = |vacancy: &SampleVacancy| {
        json!({
            "title": vacancy.title,
            "url": vacancy.url,
            "company": vacancy.company,
            "location": vacancy.location,
            "description": vacancy.description,
            "salary_min": vacancy.salary.map(|(from, _)| from),
            "salary_max": vacancy.salary.map(|(_, to)| to),
            "tags": vacancy.tags.join(", "),
            "published": vacancy.published.to_rfc3339(),
        })
    };
    vacancies.iter().map(item).collect()
}

/// Where [`flat`] has what a vacancy needs.
pub(in crate::dev) fn flat_mapping() -> Value {
    json!({
        "title": "/title", "url": "/url", "description": "/description", "published": "/published", "company": "/company",
        "location": "/location", "salary_min": "/salary_min", "salary_max": "/salary_max", "tags": "/tags",
    })
}

/// RSS 2.0.
pub(super) fn rss(vacancies: &[SampleVacancy]) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<rss version=\"2.0\"><channel>\n\
         <title>Harbour Lane Vacancies</title><link>https://harbour-lane.example/</link>\n\
         <description>Work near the water</description>\n",
    );
    for vacancy in vacancies {
        text.push_str(&format!(
            "<item><title>{}</title><link>{}</link><guid>{}</guid><pubDate>{}</pubDate><description>{}</description>",
            escaped(&vacancy.title),
            escaped(&vacancy.url),
            escaped(&vacancy.url),
            vacancy.published.to_rfc2822(),
            escaped(&vacancy.description),
        ));
        for tag in vacancy.tags {
            text.push_str(&format!("<category>{}</category>", escaped(tag)));
        }
        text.push_str("</item>\n");
    }
    text.push_str("</channel></rss>\n");
    text
}

/// Atom.
pub(super) fn atom(vacancies: &[SampleVacancy]) -> String {
    let newest = vacancies.iter().map(|vacancy| vacancy.published).max().unwrap_or_default();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\">\n\
         <title>Lantern Hill Jobs</title><id>https://lantern-hill.example/</id><updated>{}</updated>\n",
        newest.to_rfc3339(),
    );
    for vacancy in vacancies {
        text.push_str(&format!(
            "<entry><title>{}</title><link rel=\"alternate\" href=\"{}\"/><id>{}</id><updated>{}</updated>\
             <published>{}</published><author><name>{}</name></author><content type=\"html\">{}</content>",
            escaped(&vacancy.title),
            escaped(&vacancy.url),
            escaped(&vacancy.url),
            vacancy.published.to_rfc3339(),
            vacancy.published.to_rfc3339(),
            escaped(vacancy.company),
            escaped(&vacancy.description),
        ));
        for tag in vacancy.tags {
            text.push_str(&format!("<category term=\"{}\"/>", escaped(tag)));
        }
        text.push_str("</entry>\n");
    }
    text.push_str("</feed>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
