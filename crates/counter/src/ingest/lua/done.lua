-- The entry's effect stands.
forget(ARGV[1])
return 'ok'
