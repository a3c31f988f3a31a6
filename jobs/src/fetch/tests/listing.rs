//! Vacancies, listed.

use super::{Bench, Format, Site, items, spec};
use crate::{
    fetch::{VacancyFilter, VacancyStatus, list_vacancies},
    testing,
};

#[tokio::test]
async fn pages_of_vacancies_neither_miss_nor_repeat_one() {
    let bench = Bench::new().await;
    let site = Site::new(|_, _| items(0..25).to_string()).await;
    let source = bench.json_source(&site.url).await;
    bench.fetch(source).await;
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = list_vacancies(&bench.pool, &bench.tenant, VacancyFilter::default(), cursor, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        cursor = Some(last.cursor());
        seen.extend(page.iter().map(|vacancy| vacancy.id));
    }
    assert_eq!(seen.len(), 25);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 25);
}

#[tokio::test]
async fn a_filter_narrows_and_no_tenant_sees_anothers() {
    let bench = Bench::new().await;
    let stranger = testing::tenant(&bench.pool, "stranger").await;
    let site =
        Site::new(|uri, _| if uri.path() == "/a" { items(0..3).to_string() } else { items(3..5).to_string() }).await;
    let a = bench.source(&spec("a", Format::Json, &site.url.join("a").unwrap())).await;
    let b = bench.source(&spec("b", Format::Json, &site.url.join("b").unwrap())).await;
    bench.fetch(a).await;
    bench.fetch(b).await;
    sqlx::raw_sql("UPDATE vacancy SET status = 'scored', score = 8, reason = 'good' WHERE title = 'Job 1'")
        .execute(&bench.pool)
        .await
        .unwrap();
    let found = async |filter| list_vacancies(&bench.pool, &bench.tenant, filter, None, 100).await.unwrap().len();
    let all = VacancyFilter::default();
    assert_eq!(found(all).await, 5);
    assert_eq!(found(VacancyFilter { source_id: Some(b), ..all }).await, 2);
    assert_eq!(found(VacancyFilter { status: Some(VacancyStatus::Queued), ..all }).await, 4);
    assert_eq!(found(VacancyFilter { min_score: Some(8), ..all }).await, 1);
    assert_eq!(found(VacancyFilter { min_score: Some(9), ..all }).await, 0);
    assert!(list_vacancies(&bench.pool, &stranger, all, None, 100).await.unwrap().is_empty());
}
