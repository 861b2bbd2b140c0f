-- The live nodes, and nothing else.
return live_nodes(now_ms())
