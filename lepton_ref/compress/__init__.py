"""Pruning, quantising, calibration and search: offline, dense weights in, storage out.

Nothing is here yet. It will hold the methods that choose masks and scales; how a chosen form lies in memory belongs to
`lepton_ref.storage`.
"""
