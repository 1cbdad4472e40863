//! A line for GNU parallel, and the merge behind it.

use super::Plan;
use crate::shell::{line, word};

/// A script: what parallel itself reads has no word of the user's in it, so that none can be taken for one of its own.
pub fn job(plan: &Plan, jobs: Option<u32>) -> String {
    let Plan { folder, shards, cpus, note, .. } = plan;
    let jobs = jobs.map_or_else(|| format!("$(( $(nproc) / {cpus} > 0 ? $(nproc) / {cpus} : 1 ))"), |n| n.to_string());
    let shard = format!("exec {} --shard \"$1/{shards}\" -o {}/\"$1\"", line(&plan.shard), word(folder));
    let after = plan.after.iter().map(|s| line(&s.words)).collect::<Vec<_>>().join("\n");
    format!(
        "#!/bin/sh\n# {note}\n# What was stopped goes on when it is started again.\nset -eu\nmkdir -p -- {folder}\n\
         export RAYON_NUM_THREADS={cpus}\nSHARD={}\nexport SHARD\n\
         seq 0 {} | parallel --will-cite --env SHARD --env RAYON_NUM_THREADS --workdir . --jobs {jobs} --memfree {}M --timeout {} --termseq TERM,60000,KILL,1000 --retries 6 --halt soon,fail=1 'sh -c \"$SHARD\" shard {{}}'\n{after}\n",
        word(&shard),
        shards - 1,
        plan.megabytes,
        u64::from(plan.minutes) * 60,
        folder = word(folder),
    )
}
