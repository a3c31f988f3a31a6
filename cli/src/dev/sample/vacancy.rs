//! Made-up vacancies: the same ones each time, put together from the tables below. Companies and hosts do not exist.

use chrono::{DateTime, Days, NaiveTime, Utc};

/// One made-up vacancy, before it is written as JSON, RSS or Atom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SampleVacancy {
    pub(super) title: String,
    pub(super) url: String,
    pub(super) company: &'static str,
    pub(super) location: &'static str,
    pub(super) tags: &'static [&'static str],
    /// HTML.
    pub(super) description: String,
    /// Whole units a year; some say nothing about it.
    pub(super) salary: Option<(u32, u32)>,
    pub(super) published: DateTime<Utc>,
}

struct Role {
    title: &'static str,
    tags: &'static [&'static str],
    /// In thousands.
    salary: u32,
    work: &'static str,
    wish: &'static str,
}

/// Vacancies with these numbers. Each number is always the same vacancy; its date counts back from `today`.
pub(super) fn vacancies(numbers: std::ops::Range<usize>, today: DateTime<Utc>) -> Vec<SampleVacancy> {
    numbers.map(|number| vacancy(number, today)).collect()
}

fn vacancy(number: usize, today: DateTime<Utc>) -> SampleVacancy {
    let role = &ROLES[number % ROLES.len()];
    let (company, slug, business) = COMPANIES[(number * 5 + number / ROLES.len()) % COMPANIES.len()];
    let location = PLACES[number * 7 % PLACES.len()];
    let senior = number % 3 == 1;
    let title = if senior { format!("Senior {}", role.title) } else { role.title.to_owned() };
    let path: String = title.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let low = role.salary * 1000 + if senior { 14_000 } else { 0 } + u32::try_from(number % 5).unwrap_or(0) * 1500;
    let days = Days::new(number as u64 * 3 % 40);
    let midnight = today.date_naive().and_time(NaiveTime::MIN).and_utc();
    SampleVacancy {
        url: format!("https://{slug}.example/jobs/{number}-{path}"),
        description: format!(
            "<p>{company} {business}. {}</p><p>{}</p><p>{}</p>",
            role.work,
            role.wish,
            OFFERS[number % OFFERS.len()]
        ),
        title,
        company,
        location,
        tags: role.tags,
        salary: (number % 4 != 3).then_some((low, low + 18_000)),
        published: midnight - days,
    }
}

const COMPANIES: [(&str, &str, &str); 14] = [
    ("Copperline Freight", "copperline-freight", "plans the journeys of half a million containers a year"),
    ("Saltmarsh Energy", "saltmarsh-energy", "runs tidal power stations and sells what they make by the hour"),
    ("Pinehall Press", "pinehall-press", "publishes schoolbooks in eleven languages"),
    ("Blue Kettle", "blue-kettle", "delivers tea, and the app that thirty thousand people order it with"),
    ("Fernwick Health", "fernwick-health", "writes the software of four hundred doctors' practices"),
    ("Ostrava Optics", "ostrava-optics", "grinds lenses for telescopes and measures them to a nanometre"),
    ("Quillon Bank", "quillon-bank", "keeps the accounts of small businesses"),
    ("Meridian Maps", "meridian-maps", "draws maps for ferries, lighthouses and rescue services"),
    ("Harrow & Vale", "harrow-vale", "restores old houses and sells the plans to whoever wants to do it alone"),
    ("Tallow Street Games", "tallow-street", "makes puzzle games that are played on trains"),
    ("Northgate Robotics", "northgate-robotics", "builds arms that pick tomatoes without bruising them"),
    ("Linden Rail", "linden-rail", "keeps night trains running between nineteen cities"),
    ("Paperboat Payments", "paperboat", "moves money between countries for people who work abroad"),
    ("Wrenfield Insurance", "wrenfield", "insures bicycles, and finds a third of the stolen ones"),
];

const PLACES: [&str; 11] = [
    "Remote",
    "Lisbon",
    "Berlin",
    "Remote (Europe)",
    "Ghent",
    "Tallinn",
    "Edinburgh",
    "Utrecht",
    "Remote (UTC±3)",
    "Turin",
    "Krakow",
];

const OFFERS: [&str; 6] = [
    "Thirty days of leave, and nobody writes to you while you are away.",
    "You choose your hours; the team meets twice a week.",
    "A budget for books and conferences, and a day each month to use it.",
    "On call one week in eight, paid, and rarely woken.",
    "Four days a week are as welcome as five.",
    "The first interview is half an hour, the second an afternoon, and you hear from us within three days.",
];

const ROLES: [Role; 23] = [
    Role {
        title: "Rust Engineer",
        tags: &["rust", "backend", "postgres"],
        salary: 78,
        work: "You will write the services that take in orders and must not lose one, in Rust and PostgreSQL.",
        wish: "We hope that you have run something in production and can say what broke.",
    },
    Role {
        title: "Backend Developer (Python)",
        tags: &["python", "backend", "django"],
        salary: 62,
        work: "You will tend a Django application of some age and make parts of it pleasant again.",
        wish: "Tests before changes are a habit of yours, or you would like them to become one.",
    },
    Role {
        title: "Frontend Developer",
        tags: &["typescript", "frontend", "accessibility"],
        salary: 60,
        work: "You will build the pages on which our customers spend their working day.",
        wish: "You know what a screen reader does with a table.",
    },
    Role {
        title: "Database Administrator",
        tags: &["postgres", "linux", "operations"],
        salary: 71,
        work: "You will look after forty PostgreSQL clusters, their backups and the drills in which those are restored.",
        wish: "You read query plans for pleasure.",
    },
    Role {
        title: "Site Reliability Engineer",
        tags: &["linux", "kubernetes", "operations", "rust"],
        salary: 82,
        work: "You will shorten our incidents and write down what they taught us. Most of our tools are in Rust and Go.",
        wish: "You would rather remove a component than add one.",
    },
    Role {
        title: "Data Engineer",
        tags: &["python", "sql", "data"],
        salary: 70,
        work: "You will bring the figures of nine systems into one place every night, and notice when one is missing.",
        wish: "SQL is your first language, whichever is your second.",
    },
    Role {
        title: "Embedded Engineer",
        tags: &["rust", "c", "embedded"],
        salary: 76,
        work: "You will write firmware for sensors that run two years on a battery; new parts are in Rust, old ones in C.",
        wish: "An oscilloscope does not frighten you.",
    },
    Role {
        title: "Product Designer",
        tags: &["design", "research"],
        salary: 58,
        work: "You will find out what people try to do with our product, and make it shorter.",
        wish: "You show drafts early and keep the discussion kind.",
    },
    Role {
        title: "Security Engineer",
        tags: &["security", "linux", "rust"],
        salary: 85,
        work: "You will review designs before they are built and answer the reports that reach us afterwards.",
        wish: "You explain a risk so that the person who has to decide can decide.",
    },
    Role {
        title: "Customer Support Specialist",
        tags: &["support", "writing"],
        salary: 39,
        work: "You will answer forty letters a day, and turn the ten most frequent into a page that answers itself.",
        wish: "You write clearly and stay friendly on a Friday afternoon.",
    },
    Role {
        title: "Machine Learning Engineer",
        tags: &["python", "machine-learning", "data"],
        salary: 80,
        work: "You will improve the model that predicts delays and measure whether anybody is better off.",
        wish: "You compare with the simple baseline first.",
    },
    Role {
        title: "Technical Writer",
        tags: &["writing", "documentation"],
        salary: 52,
        work: "You will own the handbook of our API and every error message in it.",
        wish: "You try each example before you print it.",
    },
    Role {
        title: "Mobile Developer",
        tags: &["kotlin", "swift", "mobile"],
        salary: 66,
        work: "You will carry the app through tunnels: it has to work without a network.",
        wish: "You have shipped on one platform and are curious about the other.",
    },
    Role {
        title: "Accountant",
        tags: &["finance", "bookkeeping"],
        salary: 48,
        work: "You will close the books of three companies each month and talk to the auditors once a year.",
        wish: "Double entry needs no explanation to you.",
    },
    Role {
        title: "Platform Engineer",
        tags: &["rust", "postgres", "redis", "backend"],
        salary: 84,
        work: "You will build the queues and schedules that every other team relies upon, in Rust, over Redis and PostgreSQL.",
        wish: "You think about what happens when the process dies between two lines.",
    },
    Role {
        title: "Unpaid Intern",
        tags: &["internship", "unpaid"],
        salary: 1,
        work: "You will do a bit of everything for three months, unpaid, with a commission on what you sell.",
        wish: "You bring your own laptop.",
    },
    Role {
        title: "Quality Engineer",
        tags: &["testing", "typescript"],
        salary: 57,
        work: "You will break our releases before our customers do.",
        wish: "You distrust a test that has never failed.",
    },
    Role {
        title: "Engineering Manager",
        tags: &["management", "backend"],
        salary: 92,
        work: "You will lead seven engineers and keep their calendars empty enough to think.",
        wish: "You have written software for years and do not miss it every day.",
    },
    Role {
        title: "Network Engineer",
        tags: &["network", "linux"],
        salary: 68,
        work: "You will run the links between our sites, over two carriers and one mountain.",
        wish: "You can read a packet capture aloud.",
    },
    Role {
        title: "Sales Representative",
        tags: &["sales", "commission"],
        salary: 36,
        work: "You will call customers who already know us and ask what they lack. Half of the pay is commission.",
        wish: "You listen longer than you talk.",
    },
    Role {
        title: "Go Developer",
        tags: &["go", "backend", "kubernetes"],
        salary: 73,
        work: "You will maintain the gateway through which two thousand requests a second come in.",
        wish: "You profile before you optimise.",
    },
    Role {
        title: "Systems Programmer",
        tags: &["rust", "c", "linux"],
        salary: 83,
        work: "You will write the storage layer of our archive: checksums, compression, recovery, all in Rust.",
        wish: "You have opinions about fsync.",
    },
    Role {
        title: "Project Manager",
        tags: &["management", "planning"],
        salary: 55,
        work: "You will keep a plan that is true, which means changing it every week.",
        wish: "You say no early.",
    },
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_number_is_always_the_same_vacancy_and_no_two_share_a_url() {
        let today: DateTime<Utc> = "2024-12-04T15:30:00Z".parse().unwrap();
        let all = vacancies(0..500, today);
        assert_eq!(all[40..50], vacancies(40..50, "2024-12-04T01:00:00Z".parse().unwrap()));
        let urls: HashSet<_> = all.iter().map(|vacancy| &vacancy.url).collect();
        assert_eq!(urls.len(), all.len());
        assert!(urls.iter().all(|url| url::Url::parse(url).unwrap().host_str().unwrap().ends_with(".example")));
    }
}
