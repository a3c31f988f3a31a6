-- What waits for the next attempt of a job. ARGV 3 m. Returns { checkpoint or false, wait for a callback or false }.
return { call('HGET', CKPT, ARGV[3]), call('HGET', CB, ARGV[3]) }
