//! What a job costs, in processor time: unlike a rate, it does not depend on what else the machine does.

use anyhow::{Context, Result};
use windrow_devserver::RedisServer;

use crate::stage;

/// What Redis and this process had used when a measurement began.
pub(crate) struct Cost {
    redis: f64,
    own: f64,
}

impl Cost {
    pub(crate) async fn start(redis: &RedisServer) -> Result<Self> {
        Ok(Self { redis: redis_seconds(redis).await?, own: own_seconds()? })
    }

    /// Prints what each job has cost since.
    pub(crate) async fn print(&self, what: &str, jobs: usize, redis: &RedisServer) -> Result<()> {
        let (of_redis, own) = (redis_seconds(redis).await? - self.redis, own_seconds()? - self.own);
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let each = |seconds: f64| seconds * 1e6 / jobs as f64;
        println!("{what}: a job costs Redis {:.2} us and this process {:.2} us", each(of_redis), each(own));
        Ok(())
    }
}

async fn redis_seconds(redis: &RedisServer) -> Result<f64> {
    let info = stage::info(redis, "cpu").await?;
    Ok(stage::field(&info, "used_cpu_user")? + stage::field(&info, "used_cpu_sys")?)
}

fn own_seconds() -> Result<f64> {
    // Fields 14 and 15, counted behind the name in parentheses, in ticks of 10 ms (proc_pid_stat(5)).
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
