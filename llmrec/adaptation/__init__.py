"""Quick adaptation: a policy for a new domain, catalogue, group or person after a few sessions.

Tasks are drawn from a distribution (`tasks`), a policy learns over them how to adapt (`meta`), and three ways of
adapting stand behind one call (`ways`): in context, by a few inner steps of an adapter, by a library of adapters.
"""
