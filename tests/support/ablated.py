"""Ablations by the names of tests/data, and by ours."""

OURS = {
    "fcdm[512;2-3-8-5-2]": "fcdm_l@depths=2-3-8-5-2",
    "fcdm[512;3-3-12-9-3]": "fcdm_xl@depths=3-3-12-9-3",
    "fcdm[144;4-4-4-4-4]": "fcdm_s@width=144@depths=4-4-4-4-4",
    "fcdm[136;2-4-6-4-2]": "fcdm_s@width=136@depths=2-4-6-4-2",
    "fcdm[296;4-4-4-4-4]": "fcdm_b@width=296@depths=4-4-4-4-4",
    "fcdm[272;2-4-6-4-2]": "fcdm_b@width=272@depths=2-4-6-4-2",
    "fcdm[600;4-4-4-4-4]": "fcdm_l@width=600@depths=4-4-4-4-4",
    "fcdm[552;2-4-6-4-2]": "fcdm_l@width=552@depths=2-4-6-4-2",
    "fcdm_l+dw5": "fcdm_l@kernel=5",
    "fcdm_l+dw3": "fcdm_l@kernel=3",
    "fcdm_l+nogrn": "fcdm_l@grn=no",
    "dico_s+dw5": "dico_s@kernel=5",
    "dico_s+dw7": "dico_s@kernel=7",
    "dico_s+relu": "dico_s@activation=relu",
    "dico_s+nocca": "dico_s@attention=none",
    "fcdm[1024;4-8-4]": "fcdm_l@width=1024@depths=4-8-4",
    "fcdm[256;3-3-3-8-3-3-3]": "fcdm_l@width=256@depths=3-3-3-8-3-3-3",
}
